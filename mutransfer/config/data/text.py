"""`data: {kind: text}`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mutransfer.config.base import FieldProblem, Size
from mutransfer.config.data.base import TokenSpec
from mutransfer.config.data.masked import MaskableSection
from mutransfer.config.data.tokenizer import TokenizerField, TokenizerSection


class TextSection(MaskableSection):
    """Text files through a tokenizer; by default token ids are byte values."""

    implementation = "mutransfer.data.text:load"
    corpus = "mutransfer.data.source:corpus_of_text"

    kind: Literal["text"]
    """Data kind."""
    source: Literal["files", "python-stdlib"] = "files"
    """`python-stdlib` reads the text of the Python standard library on this machine: nothing to download."""
    paths: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Files or globs (`**` crosses folders), relative to the current folder."""
    validation_paths: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Files or globs of the validation part, in place of a fraction of the others."""
    tokenizer: TokenizerField = TokenizerSection()
    """How text becomes token ids: `bytes`, or a section."""
    seq_len: Size = 64
    """Tokens per sequence."""

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        if self.source == "files" and not self.paths:
            raise FieldProblem(("paths",), "source 'files' needs at least one path or glob")
        if self.source != "files" and self.paths:
            raise FieldProblem(("paths",), f"has no effect with source '{self.source}'")
        if self.validation_paths:
            self.fraction_unused("validation_paths")
        return self

    @property
    def spec(self) -> TokenSpec:  # noqa: D102
        return self.token_spec(vocab_size=self.tokenizer.ids(), seq_len=self.seq_len)
