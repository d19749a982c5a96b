"""Pairs of sequences: a source and its target, padded to one length each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mutransfer.config.data.base import BEGIN, END, PAD, PairSpec
from mutransfer.data.dataset import IGNORED, Array, Batch, Epochs, fingerprint
from mutransfer.errors import DataError

Ids = Sequence[int] | Array


@dataclass(frozen=True)
class Held:
    """Sentences that a metric translates, whole."""

    sources: list[list[int]]
    """Ids of each, the end included."""
    references: list[str]
    """The human translation of each, unchanged from the file."""


class PairDataset:
    """Pairs of ids, each side without beginning or end.

    Batches are inputs (sources (B, S), what the decoder has read (B, T)) and targets (B, T), int64: sources and targets
    close with `END`, the decoder starts with `BEGIN`; behind the end sources hold `PAD` and targets `IGNORED`.
    Training goes through a new permutation each epoch.
    """

    def __init__(
        self,
        train: Sequence[tuple[Ids, Ids]],
        validation: Sequence[tuple[Ids, Ids]],
        *,
        spec: PairSpec,
        label: str,
        held: Held,
        decode: Callable[[Ids], str],
        notes: tuple[str, ...] = (),
    ) -> None:
        for part, name in ((train, "training"), (validation, "validation")):
            if not part:
                raise DataError(f"{label}: no pair is left for the {name} part")
        self._spec = spec
        self._train, self._validation = (self._padded(part) for part in (train, validation))
        self._epochs = Epochs(len(train))
        self.held, self.decode, self.notes = held, decode, notes
        self._fingerprint = fingerprint(*self._train, *self._validation)

    @property
    def fingerprint(self) -> str:
        """See `Dataset`."""
        return self._fingerprint

    def batch(self, step: int, *, batch_size: int, seed: int) -> Batch:
        """See `Dataset`."""
        return _batch(self._train, self._epochs.rows(step, batch_size=batch_size, seed=seed))

    def validation(self, *, batch_size: int, batches: int) -> Iterator[Batch]:
        """See `Dataset`; pairs from all over the part."""
        available = len(self._validation[0])
        wanted = min(batches * batch_size, available)
        rows = np.linspace(0, available - 1, wanted).astype(np.int64)
        for first in range(0, wanted, batch_size):
            yield _batch(self._validation, rows[first : first + batch_size])

    def _padded(self, pairs: Sequence[tuple[Ids, Ids]]) -> tuple[Array, Array]:
        """(pairs, S) sources and (pairs, T + 1) targets behind their beginning; longer ones are cut and have no end."""
        sources = np.full((len(pairs), self._spec.source_len), PAD, dtype=np.int32)
        targets = np.full((len(pairs), self._spec.target_len + 1), PAD, dtype=np.int32)
        for row, (source, target) in enumerate(pairs):
            ids = [*source, END][: self._spec.source_len]
            sources[row, : len(ids)] = ids
            ids = [BEGIN, *target, END][: self._spec.target_len + 1]
            targets[row, : len(ids)] = ids
        return sources, targets


def _batch(part: tuple[Array, Array], rows: Array) -> Batch:
    sources, targets = (array[rows].astype(np.int64) for array in part)
    ahead = targets[:, 1:].copy()
    ahead[ahead == PAD] = IGNORED
    return (sources, targets[:, :-1].copy()), ahead
