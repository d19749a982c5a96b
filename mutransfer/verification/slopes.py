"""How a size follows width: the exponent, with an interval. numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom, as in any table; beyond them the normal's.
_T = (
    12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_T_BEYOND = 1.96


@dataclass(frozen=True)
class Slope:
    """Slope of log size against log width: size ∝ width^value."""

    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float

    def inside(self, low: float, high: float) -> bool:
        """Whether the whole interval lies within [low, high]."""
        return low <= self.low and self.high <= high

    def outside(self, low: float, high: float) -> bool:
        """Whether the whole interval lies beyond low or beyond high."""
        return self.high < low or self.low > high


def settled_share(sizes: ArrayLike, values: ArrayLike) -> Slope:
    """How much of the value at the largest size stays, however large the model becomes.

    Of a change that is made of two parts, one that stays (what has been learned) and a sum of random terms, which fades
    like size^-1/2: value² = A² + B²/size. Fitted to log2 values by least squares over A²/(A² + B²/largest size).

    Args:
        sizes, values: as of `fit_slope`.

    Returns:
        The share, from 0 (all of it fades) to 1, and its 95 % interval as `low` and `high`.
    """
    x, y = np.asarray(sizes, dtype=float), np.log2(np.atleast_2d(np.asarray(values, dtype=float)))
    shares = np.linspace(0.0, 1.0, 201)
    curves = np.log2(shares[:, None] + (1.0 - shares[:, None]) * x.max() / x) / 2
    centred = (y - y.mean(axis=1, keepdims=True))[None] - (curves - curves.mean(axis=1, keepdims=True))[:, None]
    errors = (centred**2).sum(axis=(1, 2))
    freedom = y.size - len(y) - 1
    best = float(shares[errors.argmin()])
    if freedom < 1:
        return Slope(best, 0.0, 1.0)
    near = shares[errors <= errors.min() * (1.0 + _t(freedom) ** 2 / freedom)]
    return Slope(best, float(near[0]), float(near[-1]))


def fit_slope(sizes: ArrayLike, values: ArrayLike) -> Slope:
    """Least squares of log2 values on log2 sizes, with an intercept per seed and one slope.

    Seeds share their data between widths, which moves a whole line up or down: that is not an error of the slope.

    Args:
        sizes: (widths,), at least two different ones.
        values: (seeds, widths), all > 0 and finite.

    Returns:
        The slope and its 95 % interval (Student's t on the residuals of all seeds together). With no degree of
        freedom left (one seed, two widths) the interval is infinite.
    """
    x, y = np.log2(np.asarray(sizes, dtype=float)), np.log2(np.atleast_2d(np.asarray(values, dtype=float)))
    x = x - x.mean()
    y = y - y.mean(axis=1, keepdims=True)
    seeds = len(y)
    spread = seeds * float(x @ x)
    slope = float((y @ x).sum()) / spread
    freedom = y.size - seeds - 1
    if freedom < 1:
        return Slope(slope, -math.inf, math.inf)
    variance = float(((y - slope * x) ** 2).sum()) / freedom
    margin = _t(freedom) * math.sqrt(variance / spread)
    return Slope(slope, slope - margin, slope + margin)


def _t(freedom: int) -> float:
    return _T[freedom - 1] if freedom <= len(_T) else _T_BEYOND
