"""`huggingface-text` and `huggingface-images`: rows of the `datasets` library as token sequences or labelled images."""

from __future__ import annotations

from functools import partial

import numpy as np

from mutransfer.config.data import HuggingFaceDataSection, HuggingFaceImagesSection, HuggingFaceTextSection
from mutransfer.data.cache import cache_key
from mutransfer.data.corpus import token_dataset
from mutransfer.data.dataset import Array, ClassDataset, TokenDataset
from mutransfer.data.images import class_dataset, decoded
from mutransfer.data.rows import Origin, origin_key, rows, texts


def load_text(section: HuggingFaceTextSection) -> TokenDataset:
    """The texts of the rows as one sequence. A row is a document."""
    training, validation = origins(section)
    key = cache_key(origin_key(training), section.column, section.limit)
    if validation is not None:
        key = cache_key(key, origin_key(validation))
    return token_dataset(
        section,
        partial(texts, training, section.column, limit=section.limit),
        None if validation is None else partial(texts, validation, section.column),
        key=key,
        label=training.label,
    )


def load_images(section: HuggingFaceImagesSection) -> ClassDataset:
    """The images (N, channels, size, size) and labels of the rows."""
    training, validation = origins(section)
    images, labels = _images(section, training, section.limit)
    held_out: int | None = None
    if validation is not None:
        more = _images(section, validation, None)
        held_out = len(more[0])
        images, labels = np.concatenate([images, more[0]]), np.concatenate([labels, more[1]])
    return class_dataset(section, images, labels, label=training.label, held_out=held_out)


def origins(section: HuggingFaceDataSection) -> tuple[Origin, Origin | None]:
    """Where the training rows are, and the validation rows if they are separate."""
    kind = str(section.kind)
    training = Origin(section.name, section.config, section.revision, section.split, section.files, kind=kind)
    if section.validation_split is not None:
        return training, Origin(section.name, section.config, section.revision, section.validation_split, kind=kind)
    if section.validation_files:
        return training, Origin(files=section.validation_files, field="data.validation_files", kind=kind)
    return training, None


def _images(section: HuggingFaceImagesSection, origin: Origin, limit: int | None) -> tuple[Array, Array]:
    columns = (section.image_column, section.label_column)
    key = cache_key(origin_key(origin), columns, limit)
    return decoded(section, lambda: rows(origin, columns, limit=limit), key=key, label=origin.label)
