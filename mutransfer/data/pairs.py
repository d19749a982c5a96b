"""Pairs of a source and a target sequence, each side padded to one length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mutransfer.config.data.base import BEGIN, END, PAD, PairSpec
from mutransfer.config.data.translation import TranslationSection
from mutransfer.data.dataset import IGNORED, Array, Batch, ExampleDataset, fingerprint
from mutransfer.errors import DataError

Ids = Sequence[int] | Array


@dataclass(frozen=True)
class Held:
    """Complete sentences for a metric that translates them."""

    sources: list[list[int]]
    """Ids of each source, with `END`."""
    references: list[str]
    """The reference translation of each source, as in the file."""


class PairDataset(ExampleDataset):
    """Pairs of id sequences; the pairs given have no `BEGIN` and no `END`.

    A batch is inputs (sources (B, S), decoder inputs (B, T)) and targets (B, T), int64. Sources and targets end with
    `END`, decoder inputs start with `BEGIN`. After the end, sources hold `PAD` and targets hold `IGNORED`.
    Training uses a new permutation each epoch.
    """

    def __init__(
        self,
        train: Sequence[tuple[Ids, Ids]],
        validation: Sequence[tuple[Ids, Ids]],
        section: TranslationSection,
        *,
        held: Held,
        decode: Callable[[Ids], str],
        notes: tuple[str, ...],
    ) -> None:
        for part, name in ((train, "training"), (validation, "validation")):
            if not part:
                raise DataError(f"{section.path}: no pair is left for the {name} part")
        self._pairs = pairs = _padded([*train, *validation], section.spec)
        size = len(train)
        parts = (one[part] for part in (slice(size), slice(size, None)) for one in pairs)
        super().__init__(np.arange(size), np.arange(size, len(pairs[0])), fingerprint(*parts))
        self.held, self.decode, self.notes = held, decode, notes

    def _validation_rows(self, count: int) -> Array:
        """Spread evenly over the validation part."""
        available = len(self.held_out_rows)
        return self.held_out_rows[np.linspace(0, available - 1, min(count, available)).astype(np.int64)]

    def _examples_at(self, rows: Array) -> Batch:
        sources, targets = (array[rows].astype(np.int64) for array in self._pairs)
        ahead = targets[:, 1:].copy()
        ahead[ahead == PAD] = IGNORED
        return (sources, targets[:, :-1].copy()), ahead


def _padded(pairs: Sequence[tuple[Ids, Ids]], spec: PairSpec) -> tuple[Array, Array]:
    """Sources (pairs, S), and targets (pairs, T + 1) after `BEGIN`. Longer ones are cut and then have no `END`."""
    sources = np.full((len(pairs), spec.source_len), PAD, dtype=np.int32)
    targets = np.full((len(pairs), spec.target_len + 1), PAD, dtype=np.int32)
    for row, (source, target) in enumerate(pairs):
        ids = [*source, END][: spec.source_len]
        sources[row, : len(ids)] = ids
        ids = [BEGIN, *target, END][: spec.target_len + 1]
        targets[row, : len(ids)] = ids
    return sources, targets
