"""`parquet-images`: encoded images and labels in parquet columns, as the Hugging Face hub stores them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mutransfer.config.data import ParquetImagesSection
from mutransfer.data.cache import cache_key, files_key
from mutransfer.data.dataset import ClassDataset, need_extra, require_file
from mutransfer.data.images import class_dataset, decoded
from mutransfer.errors import DataError

_ROWS = 1024


def load(section: ParquetImagesSection) -> ClassDataset:
    """Images (N, channels, size, size) uint8, decoded at the first load and cached."""
    for module in ("pyarrow.parquet", "PIL.Image"):
        need_extra(module, "vision", section.kind)
    path = require_file(section.path)
    images, labels = decoded(
        section,
        lambda: _rows(section, path),
        key=cache_key(files_key({"": path}), section.image_column, section.label_column, section.limit),
        label=str(path),
    )
    return class_dataset(section, images, labels, label=str(path))


def _rows(section: ParquetImagesSection, path: Path) -> Iterator[tuple[Any, Any]]:
    """Image and label of each row up to the limit."""
    parquet = need_extra("pyarrow.parquet", "vision", section.kind)
    arrow = need_extra("pyarrow", "vision", section.kind)
    left = section.limit
    try:
        file = parquet.ParquetFile(path)
        columns = file.schema_arrow.names
        wanted = [section.image_column, section.label_column]
        for column in wanted:
            if column not in columns:
                raise DataError(f"{path}: has no column {column!r}; its columns are {', '.join(columns)}")
        for rows in file.iter_batches(batch_size=_ROWS if left is None else min(left, _ROWS), columns=wanted):
            for row in rows.to_pylist()[:left]:
                yield row[section.image_column], row[section.label_column]
            if left is not None:
                left -= len(rows)
                if left <= 0:
                    return
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {error}") from None
