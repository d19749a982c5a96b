"""Grids across compute settings: order, what each point trains, no winner; `sweep` and `transfer` keep away."""

from __future__ import annotations

import copy

import pytest

from mutransfer.errors import UsageError
from mutransfer.executors.devices import Device
from mutransfer.executors.inline import InlineExecutor
from mutransfer.sweep.coordinator import run_points, run_sweep
from mutransfer.sweep.folder import SweepFolder, find_sweeps
from mutransfer.sweep.space import point
from mutransfer.sweep.status import status
from mutransfer.training.losses import read_metrics
from mutransfer.transfer.target import Overrides, make_target
from tests.conftest import build

ACROSS = {"model.width": [16, 32, 64], "training.seed": [0, 1], "parametrization": ["mup", "sp"]}


@pytest.fixture
def crossed(gpt):
    gpt["search"] = {"sampler": "grid", "space": {"lr": {"choice": [0.01, 0.02]}}, "across": ACROSS}
    return gpt


def points(config):
    return [point(config.search, number) for number in range(config.search.trial_count)]


def test_every_combination_comes_once_and_the_costliest_first(crossed):
    found = points(build(crossed))
    assert len({tuple(sorted(values.items())) for values in found}) == len(found) == 24
    widths = [values["model.width"] for values in found]
    assert widths == sorted(widths, reverse=True)
    shuffled = [(values["lr"], values["training.seed"]) for values in found[:8]]
    assert shuffled != sorted(shuffled)
    assert found == points(build(crossed))
    assert found != points(build(crossed, search__seed=1))


def test_the_order_in_the_file_changes_no_point(crossed):
    turned = copy.deepcopy(crossed)
    turned["search"]["across"] = dict(reversed(ACROSS.items()))
    assert points(build(turned)) == points(build(crossed))


def test_points_are_trained_as_configured_and_nothing_wins(crossed, tmp_path):
    crossed["search"]["across"] = {"model.width": [16, 32], "training.seed": [3, 5]}
    crossed["search"]["space"]["lr"]["choice"] = [0.01, 1e6]
    config = build(crossed, training__steps=3, training__divergence_factor=1.01)
    folder = SweepFolder(tmp_path / "runs" / "x" / "checks" / "round")
    records = run_points(config, folder, executor=lambda: InlineExecutor(Device("cpu", "cpu", 1)))
    assert [record.seed for record in records] == [record.params["training.seed"] for record in records]
    assert {record.outcome for record in records if record.params["lr"] > 1} == {"diverged"}
    assert len({record.validation_loss for record in records if record.params["lr"] < 1}) == 4
    assert all(list(read_metrics(folder.trial(record.number) / "metrics.jsonl")) for record in records)
    assert folder.table.exists()
    assert not folder.best.exists()
    assert status(folder).state == "finished"
    assert find_sweeps(tmp_path / "runs") == []
    with pytest.raises(UsageError, match="no winner"):
        make_target(folder, Overrides(width=64))


def test_sweep_refuses_such_a_grid_and_says_what_runs_it(crossed, tmp_path):
    with pytest.raises(UsageError, match=r"search\.across has no single winner.*mutransfer transfer-check"):
        run_sweep(build(crossed), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_control_goes_without_optional_rules(gpt):
    rules = {"interpolation": {"init": 0.5, "lr": 0.5}, "depth": {"base_depth": 1}}
    config = build(gpt, parametrization="interpolated", rules=rules, search=None)
    assert config.at_point({"parametrization": "sp"}).rules == type(config.rules)()
    assert config.at_point({"parametrization": "interpolated", "lr": 0.5}).rules == config.rules
