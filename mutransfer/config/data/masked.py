"""The `mask:` field of data that is token sequences."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mutransfer.config.data.base import BaseDataSection, MaskedSpec, TokenSpec


class MaskableSection(BaseDataSection):
    """Fields of token sequences that a model may be asked to guess from both sides."""

    mask: Annotated[float, Field(gt=0, lt=1)] | None = None
    """For models of kind bert: share of each sequence's tokens that are to be guessed, usually 0.15. Of these 80 %
    are replaced by a mask, whose id comes after the others, 10 % by any token, and 10 % stay as they are."""

    def token_spec(self, vocab_size: int, seq_len: int) -> TokenSpec:
        """The spec of sequences over `vocab_size` ids, masked or not."""
        return TokenSpec(vocab_size, seq_len) if self.mask is None else MaskedSpec(vocab_size + 1, seq_len)
