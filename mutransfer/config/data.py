"""The `data:` section, one class per kind. The union `DataSection` at the end is the registry of sources."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from mutransfer.config.base import FieldProblem, Section


@dataclass(frozen=True)
class TokenSpec:
    """Shape of token data: inputs and targets (batch, seq_len), ids below `vocab_size`."""

    vocab_size: int
    seq_len: int
    consumed_as: ClassVar = "tokens"


@dataclass(frozen=True)
class ClassSpec:
    """Shape of labelled data: inputs (batch, *shape), targets (batch,) below `classes`."""

    shape: tuple[int, ...]
    classes: int
    consumed_as: ClassVar = "classes"

    @property
    def features(self) -> int:
        """Numbers in one example."""
        total = 1
        for size in self.shape:
            total *= size
        return total


DataSpec = TokenSpec | ClassSpec


class BaseDataSection(Section):
    """Fields that every source has."""

    implementation: ClassVar[str]
    """Where the loader is: `package.module:function`, called as `function(section)`."""

    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the data kept for validation; it never overlaps the training part."""

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """What the model needs to know, without opening the data."""


class TextSection(BaseDataSection):
    """Text files as bytes: token ids are byte values."""

    implementation = "mutransfer.data.text:load"

    kind: Literal["text"]
    """Data kind."""
    source: Literal["files", "python-stdlib"] = "files"
    """`python-stdlib` reads the text of the Python standard library on this machine: nothing to download."""
    paths: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Files or globs (`**` crosses folders), relative to the current folder."""
    seq_len: PositiveInt = 64
    """Tokens per sequence."""

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        if self.source == "files" and not self.paths:
            raise FieldProblem(("paths",), "source 'files' needs at least one path or glob")
        if self.source != "files" and self.paths:
            raise FieldProblem(("paths",), f"has no effect with source '{self.source}'")
        return self

    @property
    def spec(self) -> TokenSpec:  # noqa: D102
        return TokenSpec(vocab_size=256, seq_len=self.seq_len)


class TokensSection(BaseDataSection):
    """A flat binary file of token ids, memory-mapped."""

    implementation = "mutransfer.data.tokens:load"

    kind: Literal["tokens"]
    """Data kind."""
    path: str
    """The file, relative to the current folder."""
    dtype: Literal["uint16", "uint32"] = "uint16"
    """Little-endian type of one id."""
    vocab_size: PositiveInt
    """Number of token ids; every id in the file is below it."""
    seq_len: PositiveInt = 64
    """Tokens per sequence."""

    @property
    def spec(self) -> TokenSpec:  # noqa: D102
        return TokenSpec(vocab_size=self.vocab_size, seq_len=self.seq_len)


class DigitsSection(BaseDataSection):
    """scikit-learn's 8×8 digits (extra `vision`)."""

    implementation = "mutransfer.data.digits:load"

    kind: Literal["digits"]
    """Data kind."""

    @property
    def spec(self) -> ClassSpec:  # noqa: D102
        return ClassSpec(shape=(1, 8, 8), classes=10)


class ParquetImagesSection(BaseDataSection):
    """Encoded images and labels in parquet columns, as Hugging Face's hub stores them (extra `vision`)."""

    implementation = "mutransfer.data.parquet_images:load"

    kind: Literal["parquet-images"]
    """Data kind."""
    path: str
    """The parquet file, relative to the current folder."""
    image_column: str = "img"
    """Column of encoded images: bytes, or a struct with a `bytes` field."""
    label_column: str = "label"
    """Column of integer labels."""
    size: PositiveInt = 32
    """Height and width of every image, in pixels."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB."""
    classes: PositiveInt = 10
    """Number of labels."""
    limit: PositiveInt | None = None
    """Use the first so many rows only."""

    @property
    def spec(self) -> ClassSpec:  # noqa: D102
        return ClassSpec(shape=(self.channels, self.size, self.size), classes=self.classes)


DataSection = Annotated[TextSection | TokensSection | DigitsSection | ParquetImagesSection, Field(discriminator="kind")]
