"""The transfer check on scripted losses: drift, regret, edges and widening, the control, resuming."""

from __future__ import annotations

import json
import math
import re
from concurrent.futures import Future
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from mutransfer.errors import ConfigError, Interrupted, UsageError
from mutransfer.executors.base import Job, JobFailed
from mutransfer.sweep.folder import find_sweeps
from mutransfer.verification.transfer_check import run_transfer_check
from mutransfer.verification.transfer_grid import make_grid
from mutransfer.verification.transfer_json import as_dict
from mutransfer.verification.transfer_points import CheckFolder, Point
from mutransfer.verification.transfer_verdict import (
    DriftTooLarge,
    OneSeed,
    OptimumAtEdge,
    RegretTooLarge,
    TooFewValues,
)
from mutransfer.verification.transfer_words import reason, sentences
from tests.conftest import build


class Landscape:
    """An executor that trains nothing: the loss is a parabola in log2 lr around `place(config)`."""

    capacity = 2

    def __init__(self, place, noise=0.003, diverges=lambda config: False):
        self.place, self.noise, self.diverges, self.jobs = place, noise, diverges, []

    def submit(self, job):
        (config,) = job.arguments["configs"]
        model, hparams = config["model"], config["hparams"]
        self.jobs.append((config["parametrization"], model["width"], config["training"]["seed"], hparams["lr"]))
        future = self.last = Future()
        try:
            future.set_result([self._result(config)])
        except JobFailed as error:
            future.set_exception(error)
        return future

    def _result(self, config):
        *_, seed, lr = self.jobs[-1]
        width = config["model"]["width"]
        rng = np.random.default_rng([seed, width, round(1000 * math.log2(1 / lr)), config["parametrization"] == "sp"])
        gap = math.log2(lr) - self.place(config["parametrization"], width)
        loss = 2.0 + 0.03 * gap**2 - 0.01 * math.log2(width) + 0.02 * seed + rng.normal(0, self.noise)
        outcome = "diverged" if self.diverges(config) else "completed"
        return {"outcome": outcome, "steps": 12, "training_loss": loss, "validation_loss": loss, "seconds": 0.1,
                "parameters": 1}  # fmt: skip

    def close(self):
        pass

    def train(self, grid, folder, wanted, *, widening=False, **_):
        """Stands in for `train_points` where the machinery is not what is tested: a study writes for every point."""
        known = self.__dict__.setdefault("known", {})
        for key in sorted(wanted - known.keys(), key=str):
            point = dict(zip(("parametrization", "model.width", "training.seed", grid.hparam), key, strict=True))
            config = grid.config.at_point(point).resolved()
            failure = self.submit(Job("", {"configs": [config]})).exception()
            crashed = isinstance(failure, JobFailed)
            (result,) = [None] if crashed else self.last.result()
            outcome, loss = ("crashed", None) if crashed else (result["outcome"], result["training_loss"])
            name, size, seed, value = key
            known[key] = Point(name, size, seed, value, outcome, loss, loss, folder.root / "none", not widening)
        return dict(known)


def still(parametrization, width):
    """µP's optimum stays, sp's falls by an octave per octave of width."""
    return -6.3 - (math.log2(width / 16) if parametrization == "sp" else 0)


VALUES = [2.0**k for k in range(-11, -3)]


def grid(gpt, **changes):
    del gpt["search"]
    arguments = {"sizes": [16, 32, 64], "values": VALUES, "seeds": 2, **changes}
    return make_grid(build(gpt), **arguments)


def check(grid, tmp_path, landscape, **arguments):
    """The check without studies and files of trials."""
    with mock.patch("mutransfer.verification.transfer_check.train_points", landscape.train):
        return run_transfer_check(grid, CheckFolder(tmp_path / "check"), **arguments)


def really_check(grid, tmp_path, executor, **arguments):
    return run_transfer_check(grid, CheckFolder(tmp_path / "check"), executor=lambda: executor, **arguments)


def test_an_optimum_that_stays_passes_and_one_that_moves_fails(gpt, tmp_path):
    found = check(grid(gpt), tmp_path, Landscape(still))
    assert found.passed
    assert found.judged.drift == pytest.approx(0, abs=0.15)
    low, high = found.judged.drift_interval
    assert low < found.judged.drift < high
    assert found.judged.regret == pytest.approx(0, abs=0.01)
    assert found.control.state == "failed"
    assert found.control.drift == pytest.approx(-2, abs=0.15)
    assert found.control.regret == pytest.approx(0.03 * (2.3**2 - 0.3**2), abs=0.02)
    assert found.has_power
    assert sentences(found)[0] == "mup: lr transfers across width 16 to 64."
    assert any(words.startswith("Control sp: does not transfer, as expected: the optimum moves by -2")
               for words in sentences(found))  # fmt: skip


def test_a_control_that_passes_too_shows_nothing(gpt, tmp_path):
    found = check(grid(gpt), tmp_path, Landscape(lambda parametrization, width: -6.3))
    assert found.judged.state == "passed"
    assert not found.passed
    assert as_dict(found)["state"] == "no power"
    assert found.has_power is False
    assert any("cannot tell right from wrong" in words for words in sentences(found))


def test_a_control_that_is_undecided_shows_nothing_and_says_so(gpt, tmp_path):
    def far(parametrization, width):
        return -6.3 if parametrization == "mup" else -20.0

    found = check(grid(gpt), tmp_path, Landscape(far))
    assert (found.judged.state, found.control.state) == ("passed", "undecided")
    assert as_dict(found)["state"] == "no power"
    assert any(words.startswith("Control sp: undecided") and words.endswith("does not count as passed.")
               for words in sentences(found))  # fmt: skip


def test_a_tolerance_may_be_tighter_or_wider(gpt, tmp_path):
    def creeping(parametrization, width):
        return -6.5 + 0.2 * math.log2(width / 16)

    executor = Landscape(creeping, noise=0.0005)
    planned = grid(gpt, control=False)
    assert check(planned, tmp_path, executor).judged.drift == pytest.approx(0.4, abs=0.1)
    tight = check(planned, tmp_path, executor, tolerance=0.2)
    assert tight.judged.state == "failed"
    first = tight.judged.reasons[0]
    assert isinstance(first, DriftTooLarge)
    assert first.allowed == 0.2
    assert "more than the 0.2 allowed" in reason(first, tight.grid)
    assert tight.has_power is None


def test_files_hold_the_verdict_and_every_point(gpt, tmp_path):
    def diverges(config):
        return config["hparams"]["lr"] > 0.05

    planned = grid(gpt)
    found = check(planned, tmp_path, Landscape(still, diverges=diverges))
    folder = CheckFolder(tmp_path / "check")
    verdict = json.loads(folder.verdict.read_text())
    assert verdict == as_dict(found)
    assert verdict["passed"] is True
    assert verdict["parametrizations"]["sp"]["state"] == "failed"
    table = pd.read_csv(folder.points)
    assert len(table) == len(planned.keys()) == 2 * 3 * 2 * 8
    assert set(table[table["value"] > 0.05]["outcome"]) == {"diverged"}
    assert verdict["parametrizations"]["mup"]["sizes"][0]["losses"][-1] == [None, None]


def test_an_optimum_outside_widens_the_grid_once_and_only_where_it_is(gpt, tmp_path):
    values = [2.0**k for k in range(-8, -3)]
    executor = Landscape(still)
    found = check(grid(gpt, values=values), tmp_path, executor)
    trained = {name: sorted({math.log2(lr) for p, _, _, lr in executor.jobs if p == name}) for name in ("mup", "sp")}
    assert trained == {"mup": list(range(-8, -3)), "sp": list(range(-10, -3))}
    assert len(executor.jobs) == len(set(executor.jobs))
    assert found.control.widened
    assert found.control.state == "failed"


def test_an_optimum_that_stays_at_the_edge_is_never_called_stable(gpt, tmp_path):
    executor = Landscape(lambda parametrization, width: -20.0)  # the same for all widths: it does not move at all
    found = check(grid(gpt), tmp_path, executor)
    assert found.judged.state == "undecided"
    assert not found.passed
    assert found.judged.widened
    assert any(
        isinstance(why, OptimumAtEdge) and (why.size, why.edge, why.certain) == (16, "lower", True)
        for why in found.judged.reasons
    )
    said = [reason(why, found.grid) for why in found.judged.reasons]
    assert "at width 16 the optimum lies at the lower end of the grid (0.0001221 to 0.0625)" in said
    assert min(lr for *_, lr in executor.jobs) == VALUES[0] / 4


def test_a_drift_out_of_the_grid_is_undecided_and_bounded_from_below(gpt, tmp_path):
    def far(parametrization, width):
        return -6.3 if width == 16 else -20.0

    found = check(grid(gpt, control=False), tmp_path, Landscape(far))
    assert found.judged.state == "undecided"
    assert found.judged.drift_at_least == pytest.approx(13 - 6.3, abs=0.2)


def test_one_seed_is_undecided(gpt, tmp_path):
    found = check(grid(gpt, seeds=1), tmp_path, Landscape(still))
    assert found.judged.state == "undecided"
    assert found.judged.reasons == (OneSeed(),)
    assert found.judged.drift == pytest.approx(0, abs=0.2)


def test_regret_fails_where_drift_alone_would_pass(gpt, tmp_path):
    def cliff(config):
        return config["model"]["width"] == 64 and config["hparams"]["lr"] > 2.0**-6.5

    found = check(grid(gpt, control=False), tmp_path, Landscape(still, diverges=cliff))
    assert abs(found.judged.drift) <= 1
    assert found.judged.state == "failed"
    (why,) = found.judged.reasons
    assert isinstance(why, RegretTooLarge)
    assert (why.size, why.nats) == (64, math.inf)
    assert as_dict(found)["parametrizations"]["mup"]["regret"] is None


def test_crashed_points_leave_it_undecided(gpt, tmp_path):
    class Crashing(Landscape):
        def _result(self, config):
            if config["model"]["width"] == 64 and config["hparams"]["lr"] != VALUES[4]:
                raise JobFailed("boom", "Traceback: boom")
            return super()._result(config)

    found = check(grid(gpt, control=False, sizes=[16, 64]), tmp_path, Crashing(still))
    assert found.judged.state == "undecided"
    assert found.judged.reasons[0] == TooFewValues(64, 1)


SMALL = {"sizes": [16, 64], "values": [2.0**k for k in range(-6, -3)], "control": False}


@pytest.mark.parametrize("stop_after", [3, 14])
def test_interrupted_anywhere_gives_the_same_as_uninterrupted(gpt, tmp_path, stop_after):
    """Twelve points, and eight of the widening: the second call trains what the first did not."""
    planned = grid(gpt, **SMALL)
    whole = check(planned, tmp_path / "whole", Landscape(still))
    first, second, third = Landscape(still), Landscape(still), Landscape(still)
    with pytest.raises(Interrupted, match="the same command continues"):
        really_check(planned, tmp_path, first, should_stop=lambda: len(first.jobs) >= stop_after)
    again = really_check(planned, tmp_path, second)
    assert as_dict(again) == as_dict(whole)
    assert {point.key for point in again.points} == set(first.jobs) | set(second.jobs)
    assert len(again.points) == 20
    assert len(second.jobs) < 20
    assert as_dict(really_check(planned, tmp_path, third)) == as_dict(whole)
    assert third.jobs == []


def test_more_seeds_and_sizes_add_to_what_is_there(gpt, tmp_path):
    executor = Landscape(still)
    arguments = {"values": [2.0**k for k in range(-8, -4)], "control": False}
    really_check(grid(dict(gpt), sizes=[16, 64], **arguments), tmp_path, executor)
    before = len(executor.jobs)
    found = really_check(grid(dict(gpt), seeds=3, sizes=[16, 32, 64], **arguments), tmp_path, executor)
    assert len(executor.jobs) == len(set(executor.jobs)) == before + 2 * 4 + 3 * 4
    assert len(found.points) == 3 * 3 * 4
    assert not find_sweeps(tmp_path / "check")


def far_right(parametrization, width):
    return -2.3


def test_values_of_an_earlier_call_count_in_a_later_one(gpt, tmp_path):
    """The optimum lies beyond the first call's values, widened; the second call's values bracket it from above only."""
    executor, sizes = Landscape(far_right), {"sizes": [16, 64], "control": False}
    first = grid(dict(gpt), values=[2.0**k for k in range(-9, -5)], **sizes)
    undecided = really_check(first, tmp_path, executor)
    assert undecided.judged.state == "undecided"
    assert undecided.judged.sizes[0].values == tuple(2.0**k for k in range(-9, -3))
    trained = len(executor.jobs)

    second = grid(dict(gpt), values=[2.0**k for k in range(-3, 0)], **sizes)
    found = really_check(second, tmp_path, executor)
    assert found.judged.state == "passed"
    assert found.judged.drift == pytest.approx(0, abs=0.2)
    assert found.judged.sizes[0].optimum.octaves == pytest.approx(-2.3, abs=0.2)
    assert found.judged.sizes[0].values == tuple(2.0**k for k in range(-9, 0))
    assert found.judged.earlier == tuple(2.0**k for k in range(-9, -5))
    assert found.judged.widened
    assert len(executor.jobs) == len(set(executor.jobs)) == trained + 3 * 2 * 2
    assert len(found.points) == 9 * 2 * 2
    assert "mup: lr 0.001953, 0.003906, 0.007812, 0.01562 of earlier calls count too." in sentences(found)
    verdict = as_dict(found)["parametrizations"]["mup"]
    assert (verdict["earlier_values"], verdict["left_out_values"]) == (list(found.judged.earlier), [])

    alone = Landscape(far_right)  # the second call's values by themselves reach their lower end and have to be widened
    assert {lr for *_, lr in check(second, tmp_path / "alone", alone) and alone.jobs} > set(second.values)


def test_calls_repeated_in_any_order_train_nothing_more(gpt, tmp_path):
    executor = Landscape(lambda parametrization, width: -20.0)  # below whatever is tried: every call widens downwards
    calls = [grid(dict(gpt), sizes=[16, 64], control=False, values=[2.0**k for k in span])
             for span in (range(-6, -3), range(-12, -9))]  # fmt: skip
    really_check(calls[0], tmp_path, executor)
    last = really_check(calls[1], tmp_path, executor)
    trained = len(executor.jobs)
    assert {math.log2(lr) for *_, lr in executor.jobs} == {-4, -5, -6, -7, -8, -10, -11, -12, -13, -14}
    assert as_dict(really_check(calls[1], tmp_path, executor)) == as_dict(last)
    again = really_check(calls[0], tmp_path, executor)
    assert again.judged.sizes[0].values == last.judged.sizes[0].values
    assert len(executor.jobs) == trained


def test_values_that_an_earlier_call_trained_elsewhere_are_left_out_and_named(gpt, tmp_path):
    executor = Landscape(still)
    first = {"sizes": [16, 32], "values": [2.0**k for k in range(-8, -3)]}
    second = {"sizes": [16, 32, 64], "values": [2.0**k for k in range(-9, -4)]}
    really_check(grid(dict(gpt), control=False, **first), tmp_path, executor)
    found = really_check(grid(dict(gpt), control=False, **second), tmp_path, executor)
    assert found.judged.left_out == (2.0**-4,)
    assert found.judged.sizes[0].values == tuple(second["values"])
    assert not any(point.value == 2.0**-4 for point in found.points)
    assert any("lr 0.0625 of earlier calls do not count" in words for words in sentences(found))


def test_another_config_in_the_folder_is_refused(gpt, tmp_path):
    really_check(grid(dict(gpt), **{**SMALL, "seeds": 1}), tmp_path, Landscape(still))
    gpt["training"] = {**gpt["training"], "steps": 13}
    with pytest.raises(UsageError, match=r"(?s)another --out\. It differs in\n  training\.steps: 12 → 13"):
        really_check(grid(gpt), tmp_path, Landscape(still))


def test_names_are_compared_by_rank(gpt, tmp_path):
    class Named(Landscape):
        def _result(self, config):
            schedule, width = config["hparams"]["schedule"], config["model"]["width"]
            order = ["cosine", "linear", "constant"]
            if config["parametrization"] == "sp" and width > 16:
                order = order[::-1]
            rng = np.random.default_rng([config["training"]["seed"], width, order.index(schedule)])
            loss = 2 + 0.1 * order.index(schedule) + rng.normal(0, 0.01)
            return {"outcome": "completed", "steps": 12, "training_loss": loss, "validation_loss": loss,
                    "seconds": 0.1, "parameters": 1}  # fmt: skip

    planned = grid(gpt, hparam="schedule", values=["constant", "cosine", "linear"])
    found = check(planned, tmp_path, Named(still))
    assert found.passed
    assert found.judged.transferred == "cosine"
    assert found.judged.drift is None
    assert found.control.state == "failed"
    assert found.control.regret == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sizes": [16]}, UsageError, "--sizes 16: give two sizes or more"),
        ({"values": [0.1, 0.2]}, UsageError, "needs three values or more, but got 2"),
        ({"values": [0.0, 0.1, 0.2]}, UsageError, "must be > 0"),
        ({"sizes": [16, 20]}, ConfigError, "--sizes 20: model.head_dim: 8 does not divide"),
        ({"sizes": [8, 16]}, ConfigError, "8 is narrower than base_width 16"),
        ({"hparam": "lrr"}, UsageError, "lrr: is not an hparam; did you mean lr?"),
        ({"hparam": "clip", "values": None}, UsageError, "--hparam clip: the config's value is None"),
        ({"hparam": "momentum"}, UsageError, "--hparam momentum: has no effect with optimizer adamw"),
    ],
)
def test_what_cannot_be_checked_is_refused_before_anything_runs(gpt, changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        grid(gpt, **changes)


def test_an_axis_that_the_model_lacks_is_refused(mlp):
    with pytest.raises(UsageError, match="--axis seq-len: data kind digits has no seq_len"):
        make_grid(build(mlp), axis="seq-len")


@pytest.mark.parametrize(
    ("axis", "sizes"),
    [
        ("width", (16, 32, 64, 128)),
        ("depth", (1, 2, 4, 8)),
        ("batch-size", (4, 8, 16, 32)),
        ("seq-len", (16, 32, 64, 128)),
    ],
)
def test_defaults_grow_from_the_base_and_surround_the_config(gpt, axis, sizes):
    planned = make_grid(build(gpt), axis=axis)
    assert planned.sizes == sizes
    assert planned.values == tuple(0.01 * 2.0**k for k in range(-3, 4))
    assert planned.step == pytest.approx(1)
