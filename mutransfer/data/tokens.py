"""`tokens`: a flat binary file of token ids, memory-mapped, of any size."""

from __future__ import annotations

import numpy as np

from mutransfer.config.data import TokensSection
from mutransfer.data.dataset import TokenDataset, require_file
from mutransfer.errors import DataError


def load(section: TokensSection) -> TokenDataset:
    """Map the file; ids are checked against `vocab_size` batch by batch."""
    path = require_file(section.path)
    dtype = np.dtype(section.dtype).newbyteorder("<")
    size = path.stat().st_size
    if size == 0 or size % dtype.itemsize:
        raise DataError(
            f"{path}: {size} bytes are no whole number of {section.dtype} token ids ({dtype.itemsize} bytes each)"
        )
    return TokenDataset(
        np.memmap(path, dtype=dtype, mode="r"),
        seq_len=section.seq_len,
        vocab_size=section.vocab_size,
        validation_fraction=section.validation_fraction,
        label=str(path),
    )
