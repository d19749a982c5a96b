"""No data: what asks for it anyway is refused."""

from __future__ import annotations

from mutransfer.config.data.none import NoneSection
from mutransfer.data.dataset import Dataset
from mutransfer.errors import DataError


def load(section: NoneSection) -> Dataset:
    """Never gives any.

    Raises:
        DataError: always.
    """
    raise DataError(f"data kind {section.kind}: a command brings its own data, so there is none to look at")
