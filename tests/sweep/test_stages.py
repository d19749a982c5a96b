"""Sweeps in stages: who goes on, what is trained when, and that only the last stage names a winner."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from mutransfer.errors import Interrupted, NothingUsable, UsageError
from mutransfer.executors.base import JobFailed
from mutransfer.sweep.dispatcher import Observer
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.record import TrialRecord
from mutransfer.sweep.stages import Standing, entrants, finalists, horizons, standing
from mutransfer.sweep.status import status
from mutransfer.training.losses import read_metrics
from mutransfer.transfer.target import Overrides, make_target
from tests.conftest import build
from tests.sweep.test_coordinator import Scripted, result, sweep

STAGES = [{"steps": 3}, {"steps": 6, "keep": 0.5}, {"keep": 0.5}]


class Horizons(Scripted):
    """Notes (steps, seed, lr) of every run, and whether a job mixed horizons."""

    def __init__(self, answer, capacity=2):
        super().__init__(answer, capacity)
        self.runs, self.mixed = [], False

    def submit(self, job):
        self.mixed |= len({config["training"]["steps"] for config in job.arguments["configs"]}) > 1
        return super().submit(job)

    def _one(self, config):
        self.runs.append((config["training"]["steps"], config["training"]["seed"], config["hparams"]["lr"]))
        return super()._one(config)


def answer(config, attempt):
    """Low losses at short horizons, so that whoever compares two horizons is found out; the best lr moves, too."""
    del attempt
    steps, seed = config["training"]["steps"], config["training"]["seed"]
    value = steps + abs(config["hparams"]["lr"] - 0.12 / steps) + 0.001 * seed
    return {**result(value), "steps": steps}


@pytest.fixture
def staged(gpt):
    return build(gpt, search__trials=8, search__stages=STAGES, search__confirm={"top": 2, "seeds": 1})


def record(number, value, outcome="completed", longer=()):
    return TrialRecord(number, {"lr": 0.01}, outcome, value, longer=longer)


def everything(found):
    return [
        (one.number, one.params, one.stage, one.outcome, one.value, one.steps, one.seed)
        for record in found.records
        for one in (record, *record.longer)
    ]


def test_the_best_share_goes_on_once_all_have_ended(gpt):
    config = build(gpt, search__trials=5, search__stages=[{"steps": 3}, {"keep": 0.4}])
    assert horizons(config) == (3, 12)
    assert horizons(build(gpt)) == (12,)
    records = [record(number, value) for number, value in enumerate([3.0, 1.0, 2.0, 5.0])]
    assert entrants(config, records, 2) == []  # a fifth is to come
    assert standing(config, records) == Standing(1, 2, 4, 5)
    records.append(record(4, None, outcome=None))
    assert entrants(config, records, 2) == []
    records[4] = record(4, None, outcome="diverged")
    assert [one.number for one in entrants(config, records, 2)] == [1, 2]  # two of five
    assert standing(config, records) == Standing(2, 2, 0, 2)
    longer = TrialRecord(1, {"lr": 0.01}, "completed", 9.0, stage=2)
    records[1] = record(1, 1.0, longer=(longer,))
    assert finalists(config, records) == [longer, TrialRecord(2, {"lr": 0.01}, stage=2)]
    assert standing(config, records) == Standing(2, 2, 1, 2)


@pytest.mark.parametrize(
    ("trials", "keep", "count"), [(4, 0.25, 1), (5, 0.25, 2), (3, 0.01, 1), (30, 0.1, 3), (10, 0.7, 7)]
)
def test_shares_are_rounded_up_but_not_for_floating_point(gpt, trials, keep, count):
    config = build(gpt, search__trials=trials, search__stages=[{"steps": 3}, {"keep": keep}])
    assert len(entrants(config, [record(number, 1.0) for number in range(trials)], 2)) == count


def test_a_trial_that_did_not_complete_never_goes_on(gpt):
    config = build(gpt, search__trials=4, search__stages=[{"steps": 3}, {"keep": 0.9}])
    records = [record(0, None, "diverged"), record(1, 1.0), record(2, None, "crashed"), record(3, None, "diverged")]
    assert [one.number for one in entrants(config, records, 2)] == [1]


@pytest.mark.parametrize("pack", [1, 3])
def test_each_stage_trains_its_trials_for_its_horizon(staged, tmp_path, pack):
    executor = Horizons(answer)
    found = sweep(staged, tmp_path, executor, pack=pack)
    assert [steps for steps, _, _ in executor.runs] == [3] * 8 + [6] * 4 + [12] * 2 + [12] * 2
    assert not executor.mixed
    second = sorted((one.value, one.number) for one in found.records)[:4]
    assert {one.number for one in found.records if one.longer} == {number for _, number in second}
    assert len(found.selection.ranking) == 2
    assert {one.steps for one in found.selection.ranking} == {12}
    assert {seed for steps, seed, _ in executor.runs if steps < 12} == {0}


def test_everything_names_the_winner_of_the_last_stage(staged, tmp_path):
    found = sweep(staged, tmp_path, Horizons(answer))
    winner = found.selection.best
    assert winner.stage == 3
    assert winner.value > 12
    assert yaml.safe_load(found.folder.best.read_text())["trial"] == winner.number
    table = pd.read_csv(found.folder.table)
    assert table.loc[table["rank"] == 1, "number"].item() == winner.number
    assert sorted(table["stage"]) == [1] * 4 + [2] * 2 + [3] * 2
    assert table["rank"].notna().sum() == 2
    stands = status(found.folder)
    assert (stands.state, stands.best, stands.standing) == ("finished", winner, Standing(3, 3, 2, 2))
    target = make_target(found.folder, Overrides(width=16))
    assert target.trial == winner
    assert target.tuning_flops == (8 * 3 + 4 * 6 + 2 * 12 + 2 * 12) * target.cost.flops_per_step
    left = next(one.number for one in found.records if not one.longer)
    with pytest.raises(UsageError, match=f"--trial {left}: is not a completed trial"):
        make_target(found.folder, Overrides(width=16), trial=left)


@pytest.mark.parametrize("stop_after", [1, 3, 7, 8, 9, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("pack", [1, 2])
def test_interrupted_anywhere_gives_the_same_as_uninterrupted(staged, tmp_path, stop_after, pack):
    whole = sweep(staged, tmp_path / "whole", Horizons(answer))
    first, rest = Horizons(answer, capacity=1), Horizons(answer)
    with pytest.raises(Interrupted, match=r"trials done in stage [123] of 3"):
        sweep(staged, tmp_path, first, pack=pack, should_stop=lambda: len(first.runs) >= stop_after)
    assert status(SweepFolder(tmp_path / "runs" / "tiny-gpt")).state == "stopped"
    again = sweep(staged, tmp_path, rest, pack=pack)
    assert everything(again) == everything(whole)
    assert again.folder.best.read_text() == whole.folder.best.read_text()
    assert again.folder.table.read_text() == whole.folder.table.read_text()
    assert len(first.runs) + len(rest.runs) <= 8 + 4 + 2 + 2 + pack  # what was in flight
    assert not rest.mixed


def test_more_trials_are_staged_as_if_they_had_been_there(staged, tmp_path):
    sweep(build(staged.resolved(), search__trials=4), tmp_path, Horizons(answer))
    executor = Horizons(answer)
    more = sweep(staged, tmp_path, executor)
    whole = sweep(staged, tmp_path / "whole", Horizons(answer))
    assert more.folder.best.read_text() == whole.folder.best.read_text()
    assert [one.number for one in more.selection.ranking] == [one.number for one in whole.selection.ranking]
    assert [steps for steps, _, _ in executor.runs].count(3) == 4


def test_a_crash_in_a_later_stage_is_retried_and_then_an_outcome(staged, tmp_path):
    whole = sweep(build(staged.resolved(), search__confirm={"top": 0}), tmp_path / "whole", Horizons(answer))
    poisoned = whole.selection.best

    def crashing(config, attempt):
        if config["training"]["steps"] == 12 and config["hparams"]["lr"] == poisoned.params["lr"]:
            raise JobFailed("boom", "the traceback")
        return answer(config, attempt)

    executor = Horizons(crashing)
    found = sweep(staged, tmp_path, executor)
    assert found.selection.best.number != poisoned.number
    assert found.records[poisoned.number].furthest.outcome == "crashed"
    assert found.records[poisoned.number].value is not None
    assert (found.folder.trial(poisoned.number, stage=3) / "error.txt").read_text() == "the traceback"
    assert [run[0::2] for run in executor.runs].count((12, poisoned.params["lr"])) == 3


def test_when_the_last_stage_diverges_no_earlier_one_names_a_winner(staged, tmp_path):
    def diverging(config, attempt):
        long = config["training"]["steps"] == 12
        return result(None, "diverged") if long else answer(config, attempt)

    with pytest.raises(NothingUsable, match=r"no trial completed in stage 3 of 3 \(2 diverged\)"):
        sweep(staged, tmp_path, Horizons(diverging))
    folder = SweepFolder(tmp_path / "runs" / "tiny-gpt")
    assert (status(folder).state, status(folder).best) == ("finished", None)
    with pytest.raises(NothingUsable, match="no trial has completed the last stage"):
        make_target(folder, Overrides(width=64))


def test_an_unfinished_first_stage_has_no_winner_yet(staged, tmp_path):
    executor = Horizons(answer)
    with pytest.raises(Interrupted):
        sweep(staged, tmp_path, executor, should_stop=lambda: len(executor.runs) >= 6)
    folder = SweepFolder(tmp_path / "runs" / "tiny-gpt")
    with pytest.raises(NothingUsable, match=r"has completed the last stage \([45] of 8 done in stage 1 of 3\)"):
        make_target(folder, Overrides(width=64))


def test_stages_are_told_as_they_begin(staged, tmp_path):
    class Watch(Observer):
        def __init__(self):
            self.seen = []

        def staged(self, stage, stages, steps, done, total):
            self.seen.append((stage, stages, steps, done, total))

        def ended(self, record, done, total, best):
            self.seen.append((record.stage, done, total))

    watch = Watch()
    sweep(staged, tmp_path, Horizons(answer), observer=watch)
    assert [one for one in watch.seen if len(one) == 5] == [(1, 3, 3, 0, 8), (2, 3, 6, 0, 4), (3, 3, 12, 0, 2)]
    assert watch.seen[-2:] == [(3, 1, 2), (3, 2, 2)]


def test_other_stages_are_another_sweep(staged, tmp_path):
    sweep(staged, tmp_path, Horizons(answer))
    other = build(staged.resolved(), search__stages=[{"steps": 3}, {"keep": 0.5}])
    with pytest.raises(UsageError, match=r"(?s)another config.*search\.stages"):
        sweep(other, tmp_path, Horizons(answer))


def test_a_real_sweep_in_stages_with_confirmation(gpt, tmp_path):
    """A later stage begins from scratch with the schedule of its own horizon, as if there had been no other."""
    changes = {"search__trials": 4, "training__log_every": 1}
    two = [{"steps": 4}, {"keep": 0.5}]
    config = build(gpt, search__stages=two, search__confirm={"top": 2, "seeds": 1}, **changes)
    found = sweep(config, tmp_path)
    winner = found.selection.best
    tops = sorted(one.number for one in found.selection.ranking)
    expected = [*(f"{k:05d}" for k in range(4)), *(f"{k:05d}-{what}" for k in tops for what in ("repeat1", "stage2"))]
    assert sorted(path.name for path in found.folder.trials.iterdir()) == sorted(expected)
    assert found.selection.means[winner.number] == min(found.selection.means.values())
    alone = sweep(build(gpt, **changes), tmp_path / "alone")
    short = sweep(build(gpt, training__steps=4, search__trials=4, training__log_every=1), tmp_path / "short")
    assert [one.value for one in found.records] == [one.value for one in short.records]
    assert [found.records[k].longer[0].value for k in tops] == [alone.records[k].value for k in tops]
    curves = [list(read_metrics(folder.trial(tops[0], stage=stage) / "metrics.jsonl"))
              for folder, stage in ((found.folder, 2), (alone.folder, 1))]  # fmt: skip
    assert len(curves[0]) == len(curves[1]) >= 12
