"""Decodes rows of images and labels to arrays once, and keeps the arrays in the cache."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mutransfer.config.data import HuggingFaceImagesSection, ParquetImagesSection
from mutransfer.data.cache import cache_key, cached, versions
from mutransfer.data.dataset import Array, ClassDataset, need_extra
from mutransfer.errors import DataError

ImageSection = HuggingFaceImagesSection | ParquetImagesSection


def decoded(
    section: ImageSection, rows: Callable[[], Iterable[tuple[Any, ...]]], *, key: str, label: str
) -> tuple[Array, Array]:
    """Images (N, channels, size, size) uint8 and labels (N,) int64, memory-mapped from the cache.

    Args:
        rows: returns pairs of an encoded image (bytes, or a mapping with `bytes`) and a label; called only if the
            arrays are not in the cache.
        key: cache key of the rows.
        label: what messages call the data.

    Raises:
        DataError: a row does not match the section, there are no rows, or the extra `vision` is missing.
    """
    image_module = need_extra("PIL.Image", "vision", section.kind)

    def make() -> dict[str, Array]:
        images: list[Array] = []
        labels: list[int] = []
        for cell, given in rows():
            where = f"{label}: row {len(images)}"
            images.append(_decode(image_module, cell, section, where))
            if not isinstance(given, int):
                raise DataError(f"{where}: label must be a whole number, but got {given!r}")
            labels.append(given)
        if not images:
            raise DataError(f"{label}: has no rows")
        return {"images": np.stack(images), "labels": np.array(labels, dtype=np.int64)}

    whole = cache_key("images", 1, key, section.size, section.channels, versions(["pillow"]))
    found = cached("images", whole, make)
    return found["images"], found["labels"]


def class_dataset(
    section: ImageSection, images: Array, labels: Array, *, label: str, held_out: int | None = None
) -> ClassDataset:
    """The data set of decoded images; `held_out` as in `ClassDataset`."""
    fraction = section.validation_fraction
    return ClassDataset(
        images, labels, classes=section.classes, validation_fraction=fraction, label=label, held_out=held_out
    )


def _decode(image_module: Any, cell: Any, section: ImageSection, where: str) -> Array:
    encoded = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(encoded, bytes):
        raise DataError(f"{where}: column {section.image_column!r} must hold an encoded image (bytes)")
    try:
        image = image_module.open(io.BytesIO(encoded)).convert("L" if section.channels == 1 else "RGB")
    except Exception as error:  # Pillow raises many types: OSError, SyntaxError, ValueError, TypeError, …
        raise DataError(f"{where}: cannot be decoded as an image ({type(error).__name__})") from None
    if image.size != (section.size, section.size):
        raise DataError(
            f"{where}: image is {image.width}×{image.height}, but data.size is {section.size}; "
            "all images must have that size"
        )
    return np.asarray(image, dtype=np.uint8).reshape(section.size, section.size, section.channels).transpose(2, 0, 1)
