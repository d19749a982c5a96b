"""`data: {kind: translation}`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mutransfer.config.base import FieldProblem, Size
from mutransfer.config.data.base import PAIR_SPECIALS, BaseDataSection, PairSpec
from mutransfer.config.data.tokenizer import TokenizerField, TokenizerSection


class TranslationSection(BaseDataSection):
    """Pairs of sentences, one JSON object a line."""

    implementation = "mutransfer.data.translation:load"

    kind: Literal["translation"]
    """Data kind."""
    path: str
    """JSON lines to train on, relative to the current folder."""
    validation: str | None = None
    """JSON lines to validate on. Default: a held-out `validation_fraction` of `path`."""
    test: str | None = None
    """JSON lines on which metrics (BLEU) are measured after training; they never train or select. Default: the
    validation part."""
    source_field: str
    """Key of the text that is translated."""
    target_field: str
    """Key of its translation."""
    tokenizer: TokenizerField = TokenizerSection(kind="words", vocab_size=8000)
    """How text becomes token ids; `words` and `bpe` are trained for each language on its side of the training part.
    `words` puts punctuation apart from words first."""
    lowercase: bool = False
    """Whether case is dropped; BLEU then compares without case."""
    seq_len: Annotated[Size, Field(ge=2)] = 32
    """Largest number of tokens of a sentence, its end included."""
    too_long: Literal["truncate", "drop"] = "truncate"
    """What happens to longer pairs in training and validation. Metrics are over every sentence: of a longer one the
    beginning is translated and compared with the whole reference."""

    @model_validator(mode="after")
    def _two_languages(self) -> Self:
        if self.source_field == self.target_field:
            raise FieldProblem(("target_field",), f"is source_field too ({self.source_field}); name the other language")
        if self.validation is not None:
            self.fraction_unused("a validation file")
        return self

    @property
    def spec(self) -> PairSpec:  # noqa: D102
        size = self.tokenizer.ids() + PAIR_SPECIALS
        return PairSpec(size, size, self.seq_len, self.seq_len)
