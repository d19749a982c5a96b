"""Powers, distributions, and how many trials a space makes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutransfer.config.search import Distribution, Powers, SearchSection


def distribution(**given_: Any) -> Distribution:
    return Distribution.model_validate(given_)


def section(space: dict[str, Any], **fields: Any) -> SearchSection:
    return SearchSection.model_validate({"space": space, **fields})


def test_powers_of_two_are_exact() -> None:
    assert Powers(start=-7, stop=8).values == tuple(2.0**z for z in range(-7, 9))
    assert Powers(scale=3, start=0, stop=4, step=2).values == (3.0, 12.0, 48.0)


@pytest.mark.parametrize(
    ("powers", "exponents"),
    [
        (Powers(start=0, stop=1, step=0.4), [0, 0.4, 0.8]),  # stop is not on the grid
        (Powers(start=0, stop=0.3, step=0.1), [0, 0.1, 0.2, 0.3]),  # 0.3 / 0.1 < 3 in floats
        (Powers(start=2, stop=2), [2]),
        (Powers(base=10, start=-3, stop=-1, step=0.5), [-3, -2.5, -2, -1.5, -1]),
    ],
)
def test_powers_go_from_start_to_stop_in_steps_both_ends_included(powers: Powers, exponents: list[float]) -> None:
    assert powers.values == pytest.approx([powers.base**exponent for exponent in exponents], rel=1e-12)


@settings(deadline=None)
@given(start=st.integers(-40, 40), count=st.integers(0, 30), step=st.sampled_from([0.1, 0.25, 0.3, 0.5, 1.0, 1.7]))
def test_powers_never_lose_their_last_value_to_rounding(start: int, count: int, step: float) -> None:
    values = Powers(start=start, stop=start + count * step, step=step).values
    assert len(values) == count + 1
    assert values[-1] == pytest.approx(2.0 ** (start + count * step), rel=1e-9)


@pytest.mark.parametrize(
    ("given_", "bounds", "values", "extremes"),
    [
        ({"log_uniform": [1e-4, 1e-1]}, (1e-4, 1e-1), None, (1e-4, 1e-1)),
        ({"uniform": [-1, 0]}, (-1.0, 0.0), None, (-1.0, 0.0)),
        ({"choice": ["linear", "step"]}, None, ("linear", "step"), ("linear", "step")),
        ({"choice": [None, 1.0]}, None, (None, 1.0), (None, 1.0)),
        ({"powers": {"start": 0, "stop": 2}}, None, (1.0, 2.0, 4.0), (1.0, 2.0, 4.0)),
    ],
)
def test_a_distribution_knows_its_bounds_or_values_and_what_has_to_be_valid(
    given_: dict[str, Any], bounds: Any, values: Any, extremes: Any
) -> None:
    drawn = distribution(**given_)
    assert (drawn.bounds, drawn.values, drawn.extremes) == (bounds, values, extremes)


THREE = {"powers": {"start": 0, "stop": 2}}
TWO = {"choice": ["linear", "cosine"]}
RANGE = {"uniform": [0, 1]}


@pytest.mark.parametrize(
    ("space", "size"),
    [({"lr": THREE}, 3), ({"lr": THREE, "schedule": TWO}, 6), ({"lr": THREE, "warmup": RANGE}, None)],
)
def test_a_grid_has_the_product_of_its_values_and_none_where_a_range_is_continuous(
    space: dict[str, Any], size: int | None
) -> None:
    assert section(space).grid_size == size


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 16),
        ({"trials": 5}, 5),
        ({"sampler": "grid"}, 6),
        ({"sampler": "grid", "trials": 4}, 4),
        ({"sampler": "grid", "trials": 400}, 6),
        ({"sampler": "tpe", "trials": 400}, 400),
    ],
)
def test_trials_are_as_asked_sixteen_or_the_grid(fields: dict[str, Any], count: int) -> None:
    assert section({"lr": THREE, "schedule": TWO}, **fields).trial_count == count


def test_swept_values_are_floats_even_when_written_as_whole_numbers() -> None:
    values = distribution(choice=[1, 2]).values
    assert values == (1.0, 2.0)
    assert all(isinstance(value, float) and math.isfinite(value) for value in values)
