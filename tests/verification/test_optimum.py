"""The optimum of a loss curve: accurate, refused at an edge, and with intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest

from mutransfer.verification.optimum import find_optimum, interaction_noise, percentiles

OCTAVES = np.arange(-3.0, 4.0)


def losses(place, noise=0.0, seeds=2, curvature=0.03, rng=None):
    rng = rng or np.random.default_rng(0)
    curve = 2.0 + curvature * (OCTAVES - place) ** 2
    common = rng.normal(0, 0.05, seeds)  # a seed good at all values moves no optimum
    return curve[:, None] + common + rng.normal(0, noise, (len(OCTAVES), seeds))


@pytest.mark.parametrize("place", [-1.4, -0.5, 0.0, 0.3, 1.7])
def test_a_parabola_is_found_exactly(place):
    found = find_optimum(OCTAVES, losses(place))
    assert found.fitted
    assert found.edge is None
    assert found.octaves == pytest.approx(place, abs=1e-6)
    assert found.index == int(np.argmin(np.abs(OCTAVES - place)))


@pytest.mark.parametrize(("place", "edge"), [(-3.0, "lower"), (-9.0, "lower"), (3.2, "upper"), (9.0, "upper")])
def test_an_optimum_at_an_end_is_said_to_be_there(place, edge):
    found = find_optimum(OCTAVES, losses(place))
    assert found.edge == edge
    assert not found.fitted


def test_noise_that_may_hide_an_optimum_at_an_end_counts_as_an_end():
    quiet = losses(2.0, noise=0.001)
    loud = losses(2.0, noise=0.05)
    loud[:, :] += 2.0 + 0.03 * (OCTAVES[:, None] - 2.0) ** 2 - loud.mean(axis=1, keepdims=True)  # the same means
    assert find_optimum(OCTAVES, quiet).edge is None
    assert find_optimum(OCTAVES, loud).edge == "upper"
    assert find_optimum(OCTAVES, loud).index == 5


def test_diverged_neighbours_bracket_an_optimum_and_forbid_the_fit():
    curve = losses(0.2)
    curve[4:] = np.inf
    found = find_optimum(OCTAVES, curve)
    assert (found.index, found.octaves, found.fitted, found.edge) == (3, 0.0, False, None)
    curve[3, 0] = np.inf  # one seed diverging is enough
    assert find_optimum(OCTAVES, curve).index == 2


def test_a_wall_two_values_away_does_not_bend_the_parabola():
    curve = losses(0.2)
    curve[5:] += 3.0
    assert find_optimum(OCTAVES, curve).octaves == pytest.approx(0.2, abs=1e-6)


def test_a_missing_result_is_no_bracket():
    curve = losses(3.0)
    curve[6, 1] = np.nan
    assert find_optimum(OCTAVES, curve).edge == "upper"  # though a value beyond was tried, it has no result
    curve = losses(0.0)
    curve[:5] = np.nan
    assert find_optimum(OCTAVES, curve) is None


def test_nothing_to_find_where_everything_diverged():
    assert find_optimum(OCTAVES, np.full((7, 2), np.inf)) is None


def test_one_seed_gives_no_interval():
    found = find_optimum(OCTAVES, losses(0.0, seeds=1))
    assert found.interval is None
    assert found.octaves == pytest.approx(0.0, abs=1e-6)


def test_noise_is_what_value_and_seed_do_not_explain():
    rng = np.random.default_rng(1)
    noise = interaction_noise(losses(0.0, noise=0.02, seeds=200, rng=rng), 3)
    assert noise.deviation == pytest.approx(0.02, rel=0.1)
    assert noise.freedom == 4 * 199
    assert noise.of_difference == pytest.approx(np.sqrt(2 / 200) * noise.deviation)


def test_intervals_cover_and_those_of_resampled_seeds_do_not():
    """95 % intervals at two seeds; resampling the seeds, the control, covers about half of the time."""
    rng = np.random.default_rng(2)
    trials, covered, control = 80, 0, 0
    for number in range(trials):
        place = rng.uniform(-1, 1)
        sample = losses(place, noise=0.01, rng=rng)
        low, high = find_optimum(OCTAVES, sample, seed=number).interval
        covered += low <= place <= high
        places = [
            find_optimum(OCTAVES, sample[:, pick].mean(axis=1, keepdims=True)).octaves for pick in ([0], [0, 1], [1])
        ]
        low, high = percentiles(np.repeat(places, [1, 2, 1]))
        control += low <= place <= high
    assert covered / trials >= 0.88
    assert control / trials <= 0.7
