"""Pairs of a source and a target sequence, each side padded to one length."""

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
    """Complete sentences for a metric that translates them."""

    sources: list[list[int]]
    """Ids of each source, with `END`."""
    references: list[str]
    """The reference translation of each source, as in the file."""


class PairDataset:
    """Pairs of id sequences; the pairs given have no `BEGIN` and no `END`.

    A batch is inputs (sources (B, S), decoder inputs (B, T)) and targets (B, T), int64. Sources and targets end with
    `END`, decoder inputs start with `BEGIN`. After the end, sources hold `PAD` and targets hold `IGNORED`.
    Training uses a new permutation each epoch.
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
        """See `Dataset`. The pairs are spread evenly over the validation part."""
        available = len(self._validation[0])
        wanted = min(batches * batch_size, available)
        rows = np.linspace(0, available - 1, wanted).astype(np.int64)
        for first in range(0, wanted, batch_size):
            yield _batch(self._validation, rows[first : first + batch_size])

    def _padded(self, pairs: Sequence[tuple[Ids, Ids]]) -> tuple[Array, Array]:
        """Sources (pairs, S), and targets (pairs, T + 1) after `BEGIN`. Longer ones are cut and then have no `END`."""
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
