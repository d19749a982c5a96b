""" "Wider is better": training curves of all sizes at one value, compared at every step (TP-V §8).

In µP, at the same hparams, a wider model is at least as good throughout training; where it is not, hparams no
longer transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from mutransfer.training.losses import read_metrics
from mutransfer.verification.optimum import Floats

_SMOOTHING = 0.9
# Shares of steps below this are no chance: smoothed losses of neighbouring steps are nearly the same.
_NEARLY_ALWAYS = 0.95


@dataclass(frozen=True)
class WidthCurve:
    """Smoothed training losses of one size: (seeds, steps), infinite from where a run diverged."""

    size: int
    losses: Floats


@dataclass(frozen=True)
class Comparison:
    """One size against the next smaller one, same seeds, same value."""

    smaller: int
    larger: int
    share: float
    """Share of the steps after warmup at which the larger is at least as good within noise."""
    difference: float
    """Larger minus smaller at the last step, in nats."""
    error: float | None
    """Standard error of a difference, from seeds; None with one seed."""

    @property
    def better(self) -> bool:
        """Whether the larger one is at least as good at nearly every step."""
        return self.share >= _NEARLY_ALWAYS


def read_curve(size: int, folders: Sequence[Path], steps: int) -> WidthCurve | None:
    """The curve of one size from the metrics of its seeds; None where a file has no losses."""
    rows = []
    for folder in folders:
        losses = [record["loss"] for record in read_metrics(folder / "metrics.jsonl") if "loss" in record]
        if not losses:
            return None
        known = [np.inf if loss is None else float(loss) for loss in losses[:steps]]
        rows.append(smooth(np.array(known + [np.inf] * (steps - len(known)))))
    return WidthCurve(size, np.array(rows))


def smooth(losses: Floats) -> Floats:
    """Exponential mean with the constant of the divergence stop."""
    found = np.empty_like(losses)
    mean = losses[0]
    for step, loss in enumerate(losses):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        found[step] = mean
    return found


def compare(curves: Sequence[WidthCurve], *, warmup: int) -> tuple[Comparison, ...]:
    """Each size with the next smaller one, from step `warmup` on, paired by seed."""
    found = []
    for smaller, larger in pairwise(curves):
        ours, theirs = larger.losses[:, warmup:], smaller.losses[:, warmup:]
        with np.errstate(invalid="ignore"):
            gaps = np.where(np.isinf(ours) & np.isinf(theirs), 0.0, ours - theirs)
        error = None
        finite = np.isfinite(gaps).all(axis=0)
        if len(gaps) > 1 and finite.any():
            error = float(np.sqrt(gaps[:, finite].var(axis=0, ddof=1).mean() / len(gaps)))
        mean = gaps.mean(axis=0)
        found.append(
            Comparison(smaller.size, larger.size, float(np.mean(mean <= 2 * (error or 0.0))), float(mean[-1]), error)
        )
    return tuple(found)
