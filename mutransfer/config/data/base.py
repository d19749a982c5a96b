"""Shapes of data as models see them, and the fields that every source has."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mutransfer.config.base import FieldProblem, Section


@dataclass(frozen=True)
class TokenSpec:
    """Shape of token data: inputs and targets (batch, seq_len), ids below `vocab_size`."""

    vocab_size: int
    seq_len: int
    consumed_as: ClassVar = "tokens"

    @property
    def sizes(self) -> set[int]:
        """Sizes that do not follow width."""
        return {self.vocab_size, self.seq_len}


@dataclass(frozen=True)
class MaskedSpec(TokenSpec):
    """Shape of token data to be guessed: inputs and targets (batch, seq_len), targets `IGNORED` where nothing is to be
    guessed; the mask is the last of `vocab_size` ids."""

    consumed_as: ClassVar = "masked tokens"

    @property
    def mask_id(self) -> int:
        """The id in the place of a token that is to be predicted."""
        return self.vocab_size - 1


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

    @property
    def sizes(self) -> set[int]:
        """Sizes that do not follow width."""
        return {*self.shape, self.features, self.classes}


@dataclass(frozen=True)
class PairSpec:
    """Shape of pairs of sequences: inputs are source ids (batch, source_len) and what the decoder has read before each
    target, (batch, target_len); targets (batch, target_len), `IGNORED` where the sentence is over."""

    source_vocab: int
    target_vocab: int
    source_len: int
    target_len: int
    consumed_as: ClassVar = "token pairs"

    @property
    def sizes(self) -> set[int]:
        """Sizes that do not follow width."""
        return {self.source_vocab, self.target_vocab, self.source_len, self.target_len}


@dataclass(frozen=True)
class AnySpec:
    """Data of a user's own factory: before it is opened, only the config's own fields are known."""

    sizes: tuple[int, ...] = ()
    """Sizes that do not follow width."""
    consumed_as: ClassVar = "any"


DataSpec = TokenSpec | ClassSpec | PairSpec | AnySpec

PAIR_SPECIALS = 3
PAD, BEGIN, END = range(PAIR_SPECIALS)
"""Ids with a meaning in pairs: behind a sentence's end, before the first target, the end of a sentence. Those of the
tokenizer come after them."""


class AnyDataSection(Section):
    """What the rest of the code asks of a `data:` section."""

    if TYPE_CHECKING:
        kind: str

    implementation: ClassVar[str]
    """Where the loader is: `package.module:function`, called as `function(section)`."""
    corpus: ClassVar[str | None] = None
    """What gives the text for `mutransfer prepare`: `package.module:function`, called as `function(section)`; None
    where there is no text."""

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """What the model needs to know, without opening the data."""

    @property
    def is_local(self) -> bool:
        """Whether it can be opened without fetching anything."""
        return True

    # A kind that has one of these properties calls its field by the name used here.

    @property
    def sequence_length(self) -> int | None:
        """Tokens of a sequence; None where the config does not say it."""
        found: int | None = getattr(self, "seq_len", None)
        return found

    @property
    def masked_share(self) -> float | None:
        """Share of the tokens that are masked and guessed; None without a mask."""
        found: float | None = getattr(self, "mask", None)
        return found

    @property
    def has_test(self) -> bool:
        """Whether metrics are measured on test data of its own."""
        return bool(getattr(self, "test", None))

    @property
    def label(self) -> str:
        """What messages call the data: its factory, or its kind."""
        factory = getattr(self, "factory", None)
        return f"data.factory: {factory}" if factory else f"data kind {getattr(self, 'kind', '?')}"


class BaseDataSection(AnyDataSection):
    """Fields that every source has."""

    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the data kept for validation; it never overlaps the training part."""

    def fraction_unused(self, because: str) -> None:
        """Refuse a share for validation where the validation part is apart.

        Raises:
            FieldProblem: one other than the default is given.
        """
        if self.validation_fraction != type(self).model_fields["validation_fraction"].default:
            raise FieldProblem(("validation_fraction",), f"has no effect with {because}")
