"""`data: {kind: tokens}`."""

from __future__ import annotations

from typing import Literal

from mutransfer.config.base import Size
from mutransfer.config.data.base import TokenSpec
from mutransfer.config.data.masked import MaskableSection


class TokensSection(MaskableSection):
    """Token ids, memory-mapped: a flat binary file, or a folder of shards that `mutransfer prepare` made."""

    implementation = "mutransfer.data.tokens:load"

    kind: Literal["tokens"]
    """Data kind."""
    path: str
    """The file or the folder, relative to the current folder."""
    dtype: Literal["uint16", "uint32"] = "uint16"
    """Little-endian type of one id in a flat file; a folder's index says its own."""
    vocab_size: Size
    """Number of token ids; every id is below it."""
    seq_len: Size = 64
    """Tokens per sequence."""

    @property
    def spec(self) -> TokenSpec:  # noqa: D102
        return self.token_spec(vocab_size=self.vocab_size, seq_len=self.seq_len)
