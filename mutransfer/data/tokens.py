"""`tokens`: memory-mapped token ids of any size, in one binary file or in a folder of prepared shards."""

from __future__ import annotations

import numpy as np

from mutransfer.config.data import TokensSection
from mutransfer.data.dataset import Array, TokenDataset, require_file
from mutransfer.data.shards import ShardedTokens, open_shards
from mutransfer.errors import DataError
from mutransfer.files import at_home


def load(section: TokensSection) -> TokenDataset:
    """Map the file or the shards. Each batch checks its ids against `vocab_size`."""
    folder = at_home(section.path)
    held_out: int | None = None
    tokens: Array | ShardedTokens
    if folder.is_dir():
        tokens, index = open_shards(folder)
        held_out = index["held_out"]
        if index["vocab_size"] > section.vocab_size:
            raise DataError(
                f"{folder}: has token ids below {index['vocab_size']}, but data.vocab_size is {section.vocab_size}"
            )
    else:
        tokens = _flat(section)
    return TokenDataset(tokens, section, vocab_size=section.vocab_size, label=section.path, held_out=held_out)


def _flat(section: TokensSection) -> Array:
    path = require_file(section.path)
    dtype = np.dtype(section.dtype).newbyteorder("<")
    size = path.stat().st_size
    if size == 0 or size % dtype.itemsize:
        raise DataError(
            f"{path}: {size} bytes are not a whole number of {section.dtype} token ids of {dtype.itemsize} bytes"
        )
    return np.memmap(path, dtype=dtype, mode="r")
