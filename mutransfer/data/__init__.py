"""Data sources, one per file; `config.data` registers them. Arrays are numpy: this room needs no torch."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, cast

from mutransfer.data.dataset import Dataset

if TYPE_CHECKING:
    from mutransfer.config.data import DataSection, MaskedSpec


@functools.lru_cache(maxsize=1)
def load_data(section: DataSection) -> Dataset:
    """Open the data of a `data:` section; the last one stays open, so that a worker loads it once.

    Raises:
        DataError: missing, unreadable, too small, or not what the section says.
    """
    home, _, name = section.implementation.partition(":")
    data = cast(Dataset, getattr(importlib.import_module(home), name)(section))
    share = section.masked_share
    if share is None:
        return data
    masked = importlib.import_module("mutransfer.data.masked")
    return cast(Dataset, masked.MaskedDataset(data, share=share, mask_id=cast("MaskedSpec", section.spec).mask_id))
