"""`search.across`: compute settings crossed with the grid, refused where a point makes no possible run."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.config.conftest import FILE, GPT, Load, Refuse, edited

GRID = edited(edited(GPT, "trials: 4", "sampler: grid"), "{log_uniform: [1e-3, 1e-1]}", "{choice: [0.1, 0.2, 0.4]}")


def across(text: str) -> str:
    """The gpt config with a grid across settings, which stand on line 10."""
    return GRID + f"  across: {text}\n"


def test_every_point_is_counted_and_valid(load: Load) -> None:
    config = load(across("{model.width: [16, 32], training.seed: [0, 1], parametrization: [mup, sp]}"))
    search = config.require_search()
    assert search.trial_count == 3 * 2 * 2 * 2
    assert len(list(search.combinations())) == 8
    values: dict[str, Any] = {"lr": 0.2, "model.width": 32, "training.seed": 1, "parametrization": "sp"}
    point = config.at_point(values)
    assert (point.hparams.lr, point.model.width, point.training.seed, point.parametrization) == (0.2, 32, 1, "sp")
    assert point.search is None
    assert config.model.width == 16


def test_a_point_that_is_no_possible_run_is_refused(load: Load) -> None:
    with pytest.raises(ValidationError):
        load(GRID).at_point({"model.width": 20})


def test_without_across_nothing_changes_in_what_is_written(load: Load) -> None:
    assert "across" not in load(GRID).resolved()["search"]
    assert list(load(GRID).require_search().combinations()) == [{}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{model.width: [16, 20]}", "across.model.width.1: model.width 20 makes no possible run: model.head_dim: "
         "8 does not divide width 20"),
        ("{model.width: [8, 16]}", "across.model.width.0: model.width 8 makes no possible run: model.width: 8 is "
         "narrower"),
        ("{model.width: [16, x]}", "across.model.width.1: model.width x makes no possible run: model.width: must be a "
         "whole number"),
        ("{training.seed: [-1]}", "across.training.seed.0: training.seed -1 makes no possible run"),
        ("{parametrization: [mup, mu]}", "across.parametrization.1: parametrization mu makes no possible run"),
        ("{model.widht: [16]}", "across.model.widht: cannot be crossed with the grid; did you mean model.width?"),
        ("{hparams.lr: [1]}", "across.hparams.lr: cannot be crossed with the grid"),
        ("{model.width: []}", "across.model.width: must be a list of values, but got []"),
        ("{model.width: [16, 16]}", "across.model.width: has a value twice: [16, 16]"),
        ("{model.width: [true]}", "across.model.width.0: must be a number or text, but got True"),
    ],
)  # fmt: skip
def test_an_impossible_setting_is_refused_with_line_field_and_value(refuse: Refuse, text: str, message: str) -> None:
    assert refuse(across(text)).startswith(f"{FILE}:10: search.{message}")


def test_only_a_whole_grid_goes_across(refuse: Refuse) -> None:
    setting = "  across: {training.seed: [0, 1]}\n"
    assert "search.across: needs sampler grid, but this is random" in refuse(GPT + setting)
    assert "search.trials: has no effect with across" in refuse(
        edited(GRID, "sampler", "trials: 2\n  sampler") + setting
    )
