"""`data: {kind: huggingface-text}` and `data: {kind: huggingface-images}`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mutransfer.config.base import FieldProblem, Pixels, RowCount, Size
from mutransfer.config.data.base import BaseDataSection, ClassSpec, TokenSpec
from mutransfer.config.data.masked import MaskableSection
from mutransfer.config.data.tokenizer import TokenizerField, TokenizerSection


class HuggingFaceDataSection(BaseDataSection):
    """Fields that say where rows are: on the hub, or in local files."""

    name: str | None = None
    """Name of a data set on the Hugging Face hub, such as `Salesforce/wikitext`. Give this or `files`."""
    config: str | None = None
    """Which of the configurations that the data set has on the hub."""
    revision: str | None = None
    """Commit, tag or branch on the hub. Default: the newest. A full commit hash pins the data."""
    split: str = "train"
    """Split of the hub's data set that is trained on; slices such as `train[:10%]` are possible."""
    validation_split: str | None = None
    """Split of the validation part, in place of a fraction of the other."""
    files: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Local files or globs, relative to the current folder: .parquet, .jsonl or .json, others are text, a row a
    line. All of one kind."""
    validation_files: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Local files of the validation part, in place of a fraction of the others."""
    limit: RowCount | None = None
    """Use only the first rows, this many."""

    @model_validator(mode="after")
    def _has_one_origin(self) -> Self:
        if (self.name is None) == (not self.files):
            raise FieldProblem(("name",), "give exactly one of name (on the hub) and files (local ones)")
        if self.files:
            for field in ("config", "revision", "validation_split"):
                if getattr(self, field) is not None:
                    raise FieldProblem((field,), "has no effect with files, only with name")
            if self.split != "train":
                raise FieldProblem(("split",), "has no effect with files, only with name")
        elif self.validation_files:
            raise FieldProblem(("validation_files",), "has no effect with name, only with files; see validation_split")
        if self.validation_files or self.validation_split is not None:
            self.fraction_unused("validation_files" if self.files else "validation_split")
        return self

    @property
    def is_local(self) -> bool:  # noqa: D102
        return self.name is None


class HuggingFaceTextSection(HuggingFaceDataSection, MaskableSection):
    """A text column through a tokenizer, from the Hugging Face hub or local files (extra `hf`)."""

    implementation = "mutransfer.data.huggingface:load_text"
    corpus = "mutransfer.data.source:corpus_of_rows"

    kind: Literal["huggingface-text"]
    """Data kind."""
    column: str = "text"
    """Column of text; dots lead into nested ones (`translation.de`)."""
    tokenizer: TokenizerField = TokenizerSection()
    """How text becomes token ids: `bytes`, or a section."""
    seq_len: Size = 64
    """Tokens per sequence."""

    @property
    def spec(self) -> TokenSpec:  # noqa: D102
        return self.token_spec(vocab_size=self.tokenizer.ids(), seq_len=self.seq_len)


class HuggingFaceImagesSection(HuggingFaceDataSection):
    """Images and labels, from the Hugging Face hub or local files (extras `hf` and `vision`)."""

    implementation = "mutransfer.data.huggingface:load_images"

    kind: Literal["huggingface-images"]
    """Data kind."""
    image_column: str = "img"
    """Column of images."""
    label_column: str = "label"
    """Column of integer labels."""
    size: Pixels = 32
    """Height and width of every image, in pixels."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB."""
    classes: Size = 10
    """Number of labels."""

    @property
    def spec(self) -> ClassSpec:  # noqa: D102
        return ClassSpec(shape=(self.channels, self.size, self.size), classes=self.classes)
