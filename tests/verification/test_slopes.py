"""The slope: exact on a power law, with an interval that covers as often as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mutransfer.verification.reason import as_values
from mutransfer.verification.slopes import Slope, fit_slope

SIZES = np.array([32, 64, 128, 256, 512])


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_a_power_law_gives_its_exponent_whatever_the_seeds_offsets(exponent: float) -> None:
    values = np.array([[3.0], [0.2]]) * SIZES**exponent
    slope = fit_slope(SIZES, values)
    assert (slope.value, slope.low, slope.high) == pytest.approx((exponent,) * 3, abs=1e-12)


def test_the_interval_covers_the_truth_19_times_in_20_and_misses_what_is_elsewhere() -> None:
    rng = np.random.default_rng(0)
    slopes = [
        fit_slope(SIZES, np.exp2(0.3 * np.log2(SIZES) + rng.normal(size=(2, 1)) + 0.2 * rng.normal(size=(2, 5))))
        for _ in range(2000)
    ]
    covered = np.mean([one.low <= 0.3 <= one.high for one in slopes])
    assert covered == pytest.approx(0.95, abs=0.015)
    assert np.mean([one.low <= 0.8 <= one.high for one in slopes]) < 0.05


def test_one_line_through_two_points_says_nothing_of_its_error() -> None:
    slope = fit_slope([1, 2], [[1.0, 2.0]])
    assert slope.value == 1
    assert math.isinf(slope.high)
    assert as_values(slope) == {"value": 1.0, "low": None, "high": None}


def test_inside_and_outside_are_about_the_whole_interval() -> None:
    assert Slope(0.0, -0.1, 0.1).inside(-0.1, 0.1)
    assert not Slope(0.0, -0.2, 0.1).inside(-0.1, 0.1)
    assert Slope(0.3, 0.2, 0.4).outside(-0.1, 0.1)
    assert not Slope(0.3, 0.05, 0.4).outside(-0.1, 0.1)
