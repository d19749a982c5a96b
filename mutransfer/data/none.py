"""`none`: a config without data, for a command that reads its own."""

from __future__ import annotations

from mutransfer.config.data.none import NoneSection
from mutransfer.data.dataset import Dataset
from mutransfer.errors import DataError


def load(section: NoneSection) -> Dataset:
    """Raise `DataError`: this kind has no data."""
    raise DataError(f"data kind {section.kind}: the command reads its own data, so mutransfer cannot load any")
