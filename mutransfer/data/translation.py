"""`translation`: pairs of sentences in JSON lines, as words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mutransfer.config.data import TranslationSection
from mutransfer.config.data.base import END
from mutransfer.data.dataset import require_file
from mutransfer.data.pairs import Held, PairDataset
from mutransfer.data.words import WordVocabulary
from mutransfer.errors import DataError

Texts = list[tuple[str, str]]


def load(section: TranslationSection) -> PairDataset:
    """Read all pairs, count both vocabularies on the training part, and encode everything."""
    train = _read(section.path, section)
    if section.validation is None:
        order = np.random.default_rng(0).permutation(len(train))
        size = round(len(train) * section.validation_fraction)
        if not 0 < size < len(train):
            raise DataError(f"{section.path}: too small to split: {len(train)} pairs")
        validation, train = [train[row] for row in order[:size]], [train[row] for row in sorted(order[size:])]
    else:
        validation = _read(section.validation, section)
    source, target = (
        WordVocabulary((pair[side] for pair in train), size=section.vocab_size, lowercase=section.lowercase)
        for side in (0, 1)
    )

    def encoded(part: Texts) -> list[tuple[list[int], list[int]]]:
        return [(source.encode(one), target.encode(other)) for one, other in part]

    held_texts = _read(section.test, section) if section.test is not None else validation
    pairs, held_out = encoded(train), encoded(validation)
    notes = []
    for name, words, key in (
        ("source", source, section.source_field),
        ("target", target, section.target_field),
    ):
        if words.known_share < 1:
            notes.append(
                f"data.vocab_size: {1 - words.known_share:.1%} of the {name} words ({key}) are outside the vocabulary "
                f"of {len(words)}"
            )
    fits = [max(len(one), len(other)) < section.seq_len for one, other in pairs]
    if not all(fits):
        what = "truncated" if section.too_long == "truncate" else "dropped"
        notes.append(f"data.seq_len: {fits.count(False):,} of {len(pairs):,} training pairs are longer and are {what}")
    if section.too_long == "drop":
        pairs = [pair for pair, short in zip(pairs, fits, strict=True) if short]
        held_out = [(one, other) for one, other in held_out if max(len(one), len(other)) < section.seq_len]
    return PairDataset(
        pairs,
        held_out,
        spec=section.spec,
        label=section.path,
        held=Held(
            sources=[[*source.encode(one), END][: section.seq_len] for one, _ in held_texts],
            references=[other for _, other in held_texts],
            name="validation" if section.test is None else "test",
        ),
        decode=target.decode,
        notes=tuple(notes),
    )


def _read(path: str, section: TranslationSection) -> Texts:
    file: Path = require_file(path)
    pairs: Texts = []
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            found = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise DataError(f"{where}: must be a JSON object, but is a {type(found).__name__}")
        texts = []
        for key in (section.source_field, section.target_field):
            if key not in found:
                raise DataError(f"{where}: has no key {key!r}; its keys are {', '.join(map(str, found))}")
            if not isinstance(found[key], str) or not found[key].strip():
                raise DataError(f"{where}: {key} must be a text that is not empty, but got {found[key]!r:.60}")
            texts.append(found[key])
        pairs.append((texts[0], texts[1]))
    if not pairs:
        raise DataError(f"{path}: has no pairs")
    return pairs
