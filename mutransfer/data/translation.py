"""`translation`: pairs of sentences in JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mutransfer.config.data import TranslationSection
from mutransfer.config.data.base import END, PAIR_SPECIALS
from mutransfer.data.cache import cache_key, files_key
from mutransfer.data.dataset import Array, require_file, split_rows
from mutransfer.data.pairs import Held, Ids, PairDataset
from mutransfer.data.tokenizer import UNK, open_tokenizer
from mutransfer.data.words import spaced, unspaced
from mutransfer.errors import DataError
from mutransfer.files import MOST_OF_DATA, read_bytes
from mutransfer.shown import quoted

Texts = list[tuple[str, str]]


def load(section: TranslationSection) -> PairDataset:
    """Read and encode all pairs. A tokenizer that is trained is trained on each side of the training part."""
    train = _read(section.path, section)
    if section.validation is None:
        rows, held_rows = split_rows(len(train), section.validation_fraction, section.path, what="pairs")
        validation, train = [train[row] for row in held_rows], [train[row] for row in sorted(rows)]
    else:
        validation = _read(section.validation, section)
    held = validation if section.test is None else _read(section.test, section)
    sides = [_Side(section, side, [pair[side] for pair in train]) for side in (0, 1)]
    source, target = sides

    def encoded(part: Texts) -> list[tuple[Array, Array]]:
        return list(zip(*(side.encode([pair[side.index] for pair in part]) for side in sides), strict=True))

    pairs, held_out = encoded(train), encoded(validation)
    notes = [note for side in sides if (note := side.note([pair[side.index] for pair in pairs]))]
    fits = [max(len(one), len(other)) < section.seq_len for one, other in pairs]
    if not all(fits):
        what = "truncated" if section.too_long == "truncate" else "dropped"
        notes.append(f"data.seq_len: {fits.count(False):,} of {len(pairs):,} training pairs are longer and are {what}")
    if section.too_long == "drop":
        pairs = [pair for pair, short in zip(pairs, fits, strict=True) if short]
        held_out = [(one, other) for one, other in held_out if max(len(one), len(other)) < section.seq_len]
    sources = [[*ids, END][: section.seq_len] for ids in source.encode([one for one, _ in held])]
    complete = Held(sources, references=[other for _, other in held])
    return PairDataset(pairs, held_out, section, held=complete, decode=target.decode, notes=tuple(notes))


class _Side:
    """One language: its text preparation and tokenizer. Its ids start after the special ids of pairs."""

    def __init__(self, section: TranslationSection, index: int, texts: Sequence[str]) -> None:
        self.index = index
        self._lowercase, self._words = section.lowercase, section.tokenizer.kind == "words"
        self._field = (section.source_field, section.target_field)[index]
        key = cache_key("translation", section.model_dump(), index, files_key({"train": Path(section.path)}))
        specials = (UNK,) if self._words else ()
        self._tokenizer = open_tokenizer(
            section.tokenizer, lambda: map(self._prepared, texts), specials=specials, key=key
        )

    def encode(self, texts: Sequence[str]) -> list[Array]:
        """Ids of each text, without `BEGIN` and `END`."""
        lines = self._tokenizer.encode_lines([self._prepared(text) for text in texts])
        return [line.astype(np.int64) + PAIR_SPECIALS for line in lines]

    def decode(self, ids: Ids) -> str:
        """The text of ids, without special tokens."""
        own = np.array([token - PAIR_SPECIALS for token in ids if token >= PAIR_SPECIALS], dtype=np.int64)
        text = self._tokenizer.decode(own)
        return unspaced(text) if self._words else text

    def note(self, lines: Sequence[Array]) -> str | None:
        """A note on how much of the training text is outside the vocabulary, or None."""
        if not self._words:
            return None
        unknown = self._tokenizer.specials[UNK] + PAIR_SPECIALS
        share = sum(int((line == unknown).sum()) for line in lines) / max(1, sum(map(len, lines)))
        if not share:
            return None
        size = self._tokenizer.vocab_size
        return f"data.tokenizer: {share:.1%} of the words of {self._field} are outside the vocabulary of {size:,}"

    def _prepared(self, text: str) -> str:
        text = " ".join(text.split())
        text = text.lower() if self._lowercase else text
        return spaced(text) if self._words else text


def _read(path: str, section: TranslationSection) -> Texts:
    file = require_file(path)
    try:
        lines = read_bytes(file, most=MOST_OF_DATA, error=DataError).decode().split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    pairs: Texts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise DataError(f"{where}: must be a JSON object with two texts, but is a {type(found).__name__}")
        texts = []
        for key in (section.source_field, section.target_field):
            if key not in found:
                raise DataError(f"{where}: has no key {key!r}; its keys are {', '.join(map(str, found))}")
            if not isinstance(found[key], str) or not found[key].strip():
                raise DataError(f"{where}: {key} must be a text that is not empty, but got {quoted(found[key])}")
            texts.append(found[key])
        pairs.append((texts[0], texts[1]))
    if not pairs:
        raise DataError(f"{path}: has no pairs")
    return pairs
