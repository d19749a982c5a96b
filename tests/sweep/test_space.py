"""Trial k is a function of (seed, k), and the samplers cover their ranges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mutransfer.config.search import Distribution, SearchSection
from mutransfer.sweep.space import at_unit, edge, point


def search(**fields):
    space = {"lr": {"log_uniform": [1e-4, 1e-1]}, "temperature": {"uniform": [0.0, 4.0]}, "clip": {"choice": [1, 2, 4]}}
    return SearchSection.model_validate({"space": space, **fields})


@pytest.mark.parametrize("sampler", ["random", "quasi-random"])
def test_points_are_a_function_of_seed_and_number(sampler):
    forward = [point(search(sampler=sampler), k) for k in range(8)]
    backward = [point(search(sampler=sampler), k) for k in reversed(range(8))]
    assert forward == backward[::-1]
    assert len({tuple(p.values()) for p in forward}) == 8
    assert point(search(sampler=sampler, seed=1), 0) != forward[0]


def test_further_hparam_leaves_the_other_draws_alone():
    fewer = SearchSection.model_validate({"space": {"lr": {"log_uniform": [1e-4, 1e-1]}}})
    assert point(fewer, 5)["lr"] == point(search(), 5)["lr"]


@pytest.mark.parametrize("sampler", ["random", "quasi-random"])
def test_ranges_are_covered_evenly(sampler):
    points = [point(search(sampler=sampler), k) for k in range(256)]
    logs = np.log10([p["lr"] for p in points])
    assert logs.min() >= -4
    assert logs.max() <= -1
    thirds, _ = np.histogram(logs, bins=3, range=(-4, -1))
    slack = 30 if sampler == "random" else 4  # a quasi-random sequence is much more even
    assert abs(thirds - 256 / 3).max() < slack
    assert {p["clip"] for p in points} == {1, 2, 4}


def test_grid_visits_every_point_once_in_a_seeded_order():
    space = {"lr": {"powers": {"base": 2, "start": -3, "stop": -1}}, "clip": {"choice": [1, 2]}}
    grid = SearchSection.model_validate({"sampler": "grid", "space": space})

    def points(search):
        return [(found["lr"], found["clip"]) for found in (point(search, k) for k in range(6))]

    assert grid.trial_count == 6
    assert sorted(points(grid)) == [(lr, clip) for lr in (0.125, 0.25, 0.5) for clip in (1, 2)]
    other = SearchSection.model_validate({"sampler": "grid", "space": space, "seed": 1})
    assert points(other) != points(grid)


def test_tpe_has_no_fixed_points():
    with pytest.raises(ValueError, match="tpe"):
        point(search(sampler="tpe"), 0)


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        ({"log_uniform": [1, 16]}, {0.0: 1, 0.5: 4, 0.25: 2}),
        ({"uniform": [1, 3]}, {0.0: 1, 0.5: 2}),
        ({"choice": ["a", "b"]}, {0.0: "a", 0.49: "a", 0.5: "b", 0.999: "b"}),
    ],
)
def test_at_unit(distribution, expected):
    found = Distribution.model_validate(distribution)
    for unit, value in expected.items():
        assert at_unit(found, unit) == (pytest.approx(value) if isinstance(value, int) else value)


@pytest.mark.parametrize(
    ("distribution", "value", "expected"),
    [
        ({"log_uniform": [1e-4, 1]}, 1e-4 * 10**0.19, "lower"),
        ({"log_uniform": [1e-4, 1]}, 1e-4 * 10**0.21, None),
        ({"log_uniform": [1e-4, 1]}, 0.9, "upper"),
        ({"uniform": [0, 1]}, 0.96, "upper"),
        ({"uniform": [0, 1]}, 0.5, None),
        ({"powers": {"base": 2, "start": 0, "stop": 3}}, 8.0, "upper"),
        ({"powers": {"base": 2, "start": 0, "stop": 3}}, 1.0, "lower"),
        ({"powers": {"base": 2, "start": 0, "stop": 3}}, 2.0, None),
        ({"choice": ["cosine", "linear", "step"]}, "cosine", None),
        ({"choice": [1, 2]}, 1, None),  # two values have no inside
        ({"choice": [None, 1, 2, 4]}, 4, "upper"),
        ({"choice": [None, 1, 2, 4]}, None, None),
    ],
)
def test_edge(distribution, value, expected):
    assert edge(Distribution.model_validate(distribution), value) == expected


def test_log_range_is_never_left_by_rounding():
    wide = Distribution.model_validate({"log_uniform": [1e-7, 0.3]})
    assert at_unit(wide, math.nextafter(1, 0)) <= 0.3
    assert at_unit(wide, 0.0) >= 1e-7


def test_the_order_of_keys_in_the_file_changes_no_trial():
    space = {"lr": {"choice": [1, 2, 3]}, "warmup": {"choice": [0.1, 0.2]}}
    for sampler in ("grid", "random", "quasi-random"):
        forward = SearchSection.model_validate({"sampler": sampler, "space": space})
        backward = SearchSection.model_validate({"sampler": sampler, "space": dict(reversed(space.items()))})
        assert [point(forward, k) for k in range(6)] == [point(backward, k) for k in range(6)]
