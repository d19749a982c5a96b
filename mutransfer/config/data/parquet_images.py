"""`data: {kind: parquet-images}`."""

from __future__ import annotations

from typing import Literal

from mutransfer.config.base import Pixels, RowCount, Size
from mutransfer.config.data.base import BaseDataSection, ClassSpec


class ParquetImagesSection(BaseDataSection):
    """Encoded images and labels in parquet columns, as Hugging Face's hub stores them (extra `vision`)."""

    implementation = "mutransfer.data.parquet_images:load"

    kind: Literal["parquet-images"]
    """Data kind."""
    path: str
    """The parquet file, relative to the current folder."""
    image_column: str = "img"
    """Column of encoded images: bytes, or a struct with a `bytes` field."""
    label_column: str = "label"
    """Column of integer labels."""
    size: Pixels = 32
    """Height and width of every image, in pixels."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB."""
    classes: Size = 10
    """Number of labels."""
    limit: RowCount | None = None
    """Use only the first rows, this many."""

    @property
    def spec(self) -> ClassSpec:  # noqa: D102
        return ClassSpec(shape=(self.channels, self.size, self.size), classes=self.classes)
