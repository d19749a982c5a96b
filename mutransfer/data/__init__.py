"""Data sources, one per file. `config.data` registers them. Arrays are numpy arrays; nothing here imports torch."""

from __future__ import annotations

import functools
import pkgutil
from typing import TYPE_CHECKING, cast

from mutransfer.config.data import DATA_SOURCES
from mutransfer.data.dataset import Dataset

if TYPE_CHECKING:
    from mutransfer.config.data import AnyDataSection, MaskedSpec


@functools.lru_cache(maxsize=1)
def load_data(section: AnyDataSection) -> Dataset:
    """Open the data of a `data:` section. The last one stays open, so that a worker loads it once.

    Raises `DataError` if the data is missing, unreadable, too small, or does not match the section.
    """
    data = cast(Dataset, DATA_SOURCES.implementation(section)(section))
    share = section.masked_share
    if share is None:
        return data
    masked = pkgutil.resolve_name("mutransfer.data.masked:MaskedDataset")
    return cast(Dataset, masked(data, share=share, mask_id=cast("MaskedSpec", section.spec).mask_id))
