"""Masked language modelling over any source of token sequences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mutransfer.data.dataset import IGNORED, Array, Batch, Dataset, notes_of

_MASKED, _REPLACED = 0.8, 0.1
# Seeds that keep the random streams of masks apart from those of windows and from each other.
_TRAINING, _VALIDATION = 0x6D61736B, 0x6D617368


class MaskedDataset:
    """Predict a share of each sequence, at least one token (Devlin et al. 2018, arXiv 1810.04805, §3.1).

    A batch is inputs (B, S) and targets (B, S). Of the chosen tokens 80 % become the mask, 10 % become a random token
    and 10 % stay. A target is the original token where one was chosen, `IGNORED` elsewhere. Training masks
    are a function of (seed, step), validation masks of the index of the sequence.
    """

    def __init__(self, data: Dataset, *, share: float, mask_id: int) -> None:
        """Mask `data`, whose ids are below `mask_id`."""
        self._data, self._share, self._mask_id = data, share, mask_id
        self.notes = notes_of(data)
        self.fingerprint = data.fingerprint  # the masks depend only on the config

    def batch(self, step: int, *, batch_size: int, seed: int) -> Batch:  # noqa: D102 - see `Dataset`
        tokens, _ = self._data.batch(step, batch_size=batch_size, seed=seed)
        return self._masked(np.asarray(tokens), np.random.default_rng([_TRAINING, seed, step]))

    def validation(self, *, batch_size: int, batches: int) -> Iterator[Batch]:  # noqa: D102 - see `Dataset`
        place = 0
        for tokens, _ in self._data.validation(batch_size=batch_size, batches=batches):
            rows = []
            for row in np.asarray(tokens):
                rows.append(self._masked(row[None], np.random.default_rng([_VALIDATION, place])))
                place += 1
            yield np.concatenate([inputs for inputs, _ in rows]), np.concatenate([targets for _, targets in rows])

    def _masked(self, tokens: Array, generator: np.random.Generator) -> Batch:
        count = max(1, round(self._share * tokens.shape[1]))
        order = generator.random(tokens.shape).argsort(axis=1)
        chosen = order < count  # `count` random tokens of each sequence
        inputs, fate = tokens.copy(), generator.random(tokens.shape)
        inputs[chosen & (fate < _MASKED)] = self._mask_id
        replaced = chosen & (fate >= _MASKED) & (fate < _MASKED + _REPLACED)
        inputs[replaced] = generator.integers(0, self._mask_id, size=int(replaced.sum()))
        return inputs, np.where(chosen, tokens, IGNORED)
