"""Where a loss curve has its minimum, how sure that is, and whether the grid may have missed it. numpy only.

Losses are arrays (values, seeds): infinite where a run diverged, which is a fact about that value, and NaN where
there is no result, which is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Edge = Literal["lower", "upper", "both"]

DRAWS = 1000
"""Curves redrawn for an interval."""
CONFIDENCE = 0.95
"""What share of the redrawn optima an interval holds."""
EDGE_SHARE = 0.05
"""An optimum that falls on an end of the grid in a larger share of redrawn curves counts as being there."""


@dataclass(frozen=True)
class Optimum:
    """The minimum of one loss curve."""

    index: int
    """Of the value with the lowest mean loss."""
    octaves: float
    """log2 of the optimum: of the fitted parabola's, or of the best value of the grid."""
    fitted: bool
    """Whether a parabola gave it; if not it is only known to one step of the grid."""
    loss: float
    """Mean loss at the best value of the grid."""
    interval: tuple[float, float] | None
    """In octaves; None with one seed, which shows no noise."""
    edge: Edge | None
    """The end of the grid at which the optimum lies, or may lie as far as the noise tells."""
    edge_share: float
    """Share of the redrawn curves whose optimum is at an end."""
    draws: Floats
    """Optima of the redrawn curves, in octaves; empty with one seed."""


def find_optimum(octaves: Floats, losses: Floats, *, seed: int = 0) -> Optimum | None:
    """The optimum of the seed-mean of `losses` (values, seeds) over rising `octaves` (values,).

    A value at which any seed diverged counts as infinitely bad; a value for which a result is missing counts as
    never tried. None where fewer than three values are left, or all of them diverged.

    The interval is a parametric bootstrap. The mean curve is redrawn with noise, and the noise's size is redrawn too.
    The noise is the residual of the losses around the optimum after each value's and each seed's mean is removed: a
    seed that is good at all values moves no optimum. Resampling two or three seeds would give only three or ten
    different curves, and intervals that are far too short.
    """
    tried = ~np.isnan(losses).any(axis=1)
    places = np.flatnonzero(tried)
    octaves, losses = octaves[tried], losses[tried]
    curve = losses.mean(axis=1)
    if len(curve) < 3 or not np.isfinite(curve).any():
        return None
    noise = interaction_noise(losses, int(np.argmin(curve)))
    error = 0.0 if noise is None else noise.of_mean
    best, place, fitted = _minimum(octaves, curve, error)
    draws, on_edge = _redraw(octaves, curve, noise, seed)
    share = float(np.mean(on_edge != 0)) if len(on_edge) else 0.0
    return Optimum(
        index=int(places[best]),
        octaves=place,
        fitted=fitted,
        loss=float(curve[best]),
        interval=percentiles(draws),
        edge=_edge(best, len(curve), on_edge),
        edge_share=share,
        draws=draws,
    )


@dataclass(frozen=True)
class Noise:
    """What one run's loss differs by, beyond what its value and its seed do to all runs that share them."""

    deviation: float
    """Standard deviation of one run."""
    freedom: int
    """Degrees of freedom behind it."""
    seeds: int

    @property
    def of_mean(self) -> float:
        """Standard error of a mean over the seeds."""
        return self.deviation / float(np.sqrt(self.seeds))

    @property
    def of_difference(self) -> float:
        """Standard error of the difference between two values' means over the same seeds."""
        return float(np.sqrt(2.0)) * self.of_mean


def interaction_noise(losses: Floats, around: int, *, reach: int = 2) -> Noise | None:
    """Noise of `losses` (values, seeds) within `reach` values of `around`; None with one seed or one usable value."""
    window = losses[max(0, around - reach) : around + reach + 1]
    window = window[np.isfinite(window).all(axis=1)]
    values, seeds = window.shape
    freedom = (values - 1) * (seeds - 1)
    if freedom < 1:
        return None
    left = window - window.mean(axis=1, keepdims=True) - window.mean(axis=0, keepdims=True) + window.mean()
    return Noise(float(np.sqrt((left**2).sum() / freedom)), freedom, seeds)


def percentiles(draws: Floats) -> tuple[float, float] | None:
    """The middle `CONFIDENCE` of the draws; None of none."""
    if not len(draws):
        return None
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _minimum(octaves: Floats, curve: Floats, error: float) -> tuple[int, float, bool]:
    """Index of the lowest point, the place of the minimum, and whether a parabola gave it.

    The parabola goes through the lowest point and its two neighbours, which bracket it; the next point on
    either side takes part where that parabola predicts it (within half its rise, or within the noise). Loss
    curves rise faster on one side than on the other, and a wall is not part of a parabola.
    """
    best = int(np.argmin(curve))
    inner = slice(best - 1, best + 2)
    if not 0 < best < len(curve) - 1 or not np.isfinite(curve[inner]).all():
        return best, float(octaves[best]), False
    x, y = octaves - octaves[best], curve - curve[best]
    parabola = np.polyfit(x[inner], y[inner], 2)
    used = [best - 1, best, best + 1]
    for outer in (best - 2, best + 2):
        if 0 <= outer < len(curve) and np.isfinite(y[outer]):
            foretold = float(np.polyval(parabola, x[outer]))
            if abs(y[outer] - foretold) <= 0.5 * abs(foretold) + 4.0 * error:
                used.append(outer)
    for chosen in (used, used[:3]):
        curvature, slope, _ = np.polyfit(x[chosen], y[chosen], 2)
        if curvature > 0:
            place = -slope / (2 * curvature)
            if x[best - 1] <= place <= x[best + 1]:
                return best, float(octaves[best] + place), True
    return best, float(octaves[best]), False


def _redraw(octaves: Floats, curve: Floats, noise: Noise | None, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Optima of redrawn curves, and -1, 0 or 1 for each: at the lower end, inside, at the upper end."""
    if noise is None:
        return np.empty(0), np.empty(0, dtype=np.int64)
    rng = np.random.default_rng(seed)
    errors = noise.of_mean * np.sqrt(noise.freedom / rng.chisquare(noise.freedom, size=DRAWS))
    places, ends = np.empty(DRAWS), np.zeros(DRAWS, dtype=np.int64)
    for draw, error in enumerate(errors):
        best, place, fitted = _minimum(octaves, curve + error * rng.standard_normal(len(curve)), float(error))
        if not fitted:  # known to the nearest value of the grid only
            step = octaves[min(best + 1, len(octaves) - 1)] - octaves[max(best - 1, 0)]
            inside = 0 < best < len(octaves) - 1
            place += rng.uniform(-0.5, 0.5) * step * (0.5 if inside else 1.0)
        places[draw] = place
        ends[draw] = -1 if best == 0 else 1 if best == len(curve) - 1 else 0
    return places, ends


def _edge(best: int, count: int, on_edge: NDArray[np.int64]) -> Edge | None:
    lower, upper = best == 0, best == count - 1
    if len(on_edge):
        lower = lower or bool(np.mean(on_edge == -1) > EDGE_SHARE)
        upper = upper or bool(np.mean(on_edge == 1) > EDGE_SHARE)
    if lower and upper:
        return "both"
    return "lower" if lower else "upper" if upper else None
