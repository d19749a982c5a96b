"""`parquet-images`: encoded images and labels in parquet columns, as the Hugging Face hub stores them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from mutransfer.config.data import ParquetImagesSection
from mutransfer.data.dataset import Array, ClassDataset, need_extra, require_file
from mutransfer.errors import DataError


def load(section: ParquetImagesSection) -> ClassDataset:
    """Decode every image into memory as bytes (N, channels, size, size)."""
    parquet = need_extra("pyarrow.parquet", "vision", section.kind)
    arrow = need_extra("pyarrow", "vision", section.kind)
    image_module = need_extra("PIL.Image", "vision", section.kind)
    path = require_file(section.path)
    try:
        file = parquet.ParquetFile(path)
        columns = file.schema_arrow.names
        for column in (section.image_column, section.label_column):
            if column not in columns:
                raise DataError(f"{path}: has no column {column!r}; its columns are {', '.join(columns)}")
        images: list[Array] = []
        labels: list[int] = []
        for rows in file.iter_batches(batch_size=1024, columns=[section.image_column, section.label_column]):
            for row in rows.to_pylist():
                if section.limit is not None and len(images) >= section.limit:
                    break
                where = f"{path}: row {len(images)}"
                images.append(_decode(image_module, row[section.image_column], section, where))
                label = row[section.label_column]
                if not isinstance(label, int):
                    raise DataError(f"{where}: label must be a whole number, but got {label!r}")
                labels.append(label)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {error}") from None
    if not images:
        raise DataError(f"{path}: has no rows")
    return ClassDataset(
        np.stack(images),
        np.array(labels),
        classes=section.classes,
        validation_fraction=section.validation_fraction,
        label=str(path),
    )


def _decode(image_module: Any, cell: Any, section: ParquetImagesSection, where: str) -> Array:
    encoded = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(encoded, bytes):
        raise DataError(f"{where}: column {section.image_column!r} holds no encoded image")
    try:
        image = image_module.open(io.BytesIO(encoded)).convert("L" if section.channels == 1 else "RGB")
    except Exception as error:  # a broken image may raise OSError, SyntaxError, ValueError, TypeError, …
        raise DataError(f"{where}: cannot be decoded as an image ({type(error).__name__})") from None
    if image.size != (section.size, section.size):
        raise DataError(
            f"{where}: image is {image.width}×{image.height}, but data.size is {section.size}; "
            "all images must have that size"
        )
    return np.asarray(image, dtype=np.uint8).reshape(section.size, section.size, section.channels).transpose(2, 0, 1)
