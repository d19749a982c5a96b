"""Pruning: Optuna's own decisions, the same whatever the timing, and only where a curve may be judged."""

from __future__ import annotations

import math
import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import optuna
import pandas as pd
import pytest

from mutransfer.config.load import load_config
from mutransfer.config.pruner import PRUNER_FIELDS
from mutransfer.errors import ConfigError, Interrupted, NothingUsable
from mutransfer.executors.base import JobFailed
from mutransfer.executors.devices import Device
from mutransfer.executors.local import LocalExecutor
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.pruning import optuna_pruner
from mutransfer.sweep.space import point
from mutransfer.sweep.status import status
from mutransfer.sweep.study import Study
from tests.conftest import build
from tests.sweep.test_coordinator import CPU, losses, result, sweep

STEPS, EVERY = 40, 2


def loss(config, step):
    """Falls with the steps, the faster the nearer lr is to 0.01; curves cross."""
    lr = config["hparams"]["lr"]
    gap = abs(math.log10(lr / 0.01))
    return 4 - (3 - gap) * (1 - math.exp(-step * (0.05 + 0.5 * lr)))


class Curves:
    """Trains nothing: looks and results are a function of (lr, step); how long anything takes is not."""

    def __init__(self, capacity=1, haste=None, crashing=None):
        self.capacity, self._haste, self._crashing = capacity, random.Random(haste), crashing
        self._slow = haste is not None
        self._pool, self._stopped = ThreadPoolExecutor(capacity), threading.Event()
        self.sizes, self.asked, self.crashed = [], 0, []

    def submit(self, job):
        self.sizes.append(len(job.arguments["configs"]))
        return self._pool.submit(self._run, job)

    def _run(self, job):
        configs = job.arguments["configs"]
        if self._crashing and self._crashing(configs) and configs[0] not in self.crashed:
            self.crashed.append(configs[0])
            raise JobFailed("boom", "a traceback")
        found, every = {}, job.arguments.get("prune_every", 0)
        for step in range(every, STEPS, every) if every else ():
            left = {k: loss(config, step) for k, config in enumerate(configs) if k not in found}
            if not left:
                break
            while (pruned := job.answer((step, left))) is None:
                self.asked += 1
                if self._stopped.wait(0.002):
                    raise JobFailed("stopped", "")
            found |= {k: {**result(None, "pruned"), "steps": step} for k in pruned}
            if self._slow:
                time.sleep(self._haste.random() * 0.003)
        return [found.get(k, {**result(loss(config, STEPS)), "steps": STEPS}) for k, config in enumerate(configs)]

    def close(self):
        self._stopped.set()
        self._pool.shutdown()


def pruned_config(gpt, pruner, **changes):
    return build(
        gpt, hparams__schedule="constant", training__steps=STEPS, training__eval_every=EVERY, search__trials=24,
        search__space={"lr": {"log_uniform": [1e-4, 1.0]}}, search__pruner=pruner, **changes,
    )  # fmt: skip


def native(folder):
    return optuna.load_study(study_name="mutransfer", storage=f"sqlite:///{folder.study}").trials


@pytest.mark.parametrize("kind", PRUNER_FIELDS)
def test_with_a_lag_of_one_it_is_optunas_own_serial_study(gpt, tmp_path, kind):
    """The decisions, and every row that Optuna would write."""
    config = pruned_config(gpt, {"kind": kind, "lag": 1, "min_steps": 4})
    found = sweep(config, tmp_path, Curves())
    pruner = optuna_pruner(config.search.pruner, 4, STEPS)
    oracle = optuna.create_study(study_name="mutransfer", pruner=pruner)
    for record in found.records:
        trial = oracle.ask()
        own = {"hparams": {"lr": record.params["lr"]}}
        for step in range(EVERY, STEPS, EVERY):
            trial.report(loss(own, step), step)
            if trial.should_prune():
                oracle.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            oracle.tell(trial, loss(own, STEPS))
    pruned = [record.number for record in found.records if record.outcome == "pruned"]
    assert 4 < len(pruned) < 24
    for ours, theirs in zip(native(found.folder), oracle.trials, strict=True):
        assert (ours.state, ours.value, ours.intermediate_values) == (
            theirs.state, theirs.value, theirs.intermediate_values
        )  # fmt: skip
        assert ours.system_attrs == theirs.system_attrs
    assert found.selection.best.number == oracle.best_trial.number


@pytest.mark.parametrize("kind", ["median", "hyperband"])
def test_what_is_pruned_depends_on_no_timing(gpt, tmp_path, kind):
    config = pruned_config(gpt, {"kind": kind, "lag": 4})
    whole = sweep(config, tmp_path / "serial", Curves())
    assert {record.outcome for record in whole.records} == {"completed", "pruned"}
    waited = 0
    for capacity, pack, haste in ((6, 1, 2), (2, 3, 3), (2, 16, 4)):
        executor = Curves(capacity, haste)
        other = sweep(config, tmp_path / f"{capacity}-{pack}", executor, pack=pack)
        assert losses(other) == losses(whole)
        assert max(executor.sizes) <= 4
        waited += executor.asked
    assert waited > 0  # six workers with a lag of 4 have to


@pytest.mark.parametrize("kind", ["median", "hyperband"])
@pytest.mark.parametrize("stop_after", [3, 9, 14])
def test_interrupted_and_resumed_is_the_same(gpt, tmp_path, kind, stop_after):
    config = pruned_config(gpt, {"kind": kind, "lag": 3})
    whole = sweep(config, tmp_path / "whole", Curves())
    first = Curves(2, haste=stop_after)
    with pytest.raises(Interrupted):
        sweep(config, tmp_path, first, should_stop=lambda: len(first.sizes) >= stop_after)
    assert losses(sweep(config, tmp_path, Curves(2, haste=5))) == losses(whole)


@pytest.mark.parametrize("pack", [1, 3])
def test_a_trial_that_others_wait_for_may_crash(gpt, tmp_path, pack):
    """It is tried again before any other, or the workers that wait for it would wait for ever."""
    config = pruned_config(gpt, {"kind": "successive-halving", "lag": 3})
    whole = sweep(config, tmp_path / "whole", Curves())
    worst = {whole.records[k].params["lr"] for k in (0, 5, 6, 11)}
    executor = Curves(3, haste=1, crashing=lambda configs: configs[0]["hparams"]["lr"] in worst)
    assert losses(sweep(config, tmp_path, executor, pack=pack)) == losses(whole)
    assert executor.crashed


def test_a_pruned_trial_is_an_outcome_and_never_the_winner(gpt, tmp_path):
    config = pruned_config(gpt, "median", search__confirm={"top": 2, "seeds": 1})
    assert config.search.pruner.kind == "median"
    found = sweep(config, tmp_path, Curves(2, haste=1))
    pruned = [record for record in found.records if record.outcome == "pruned"]
    assert pruned
    assert all(record.value is None and record.steps < STEPS for record in pruned)
    best = min((record for record in found.records), key=lambda one: abs(math.log(one.params["lr"] / 0.01)))
    assert best.outcome == "completed"
    table = pd.read_csv(found.folder.table)
    assert (table["outcome"] == "pruned").sum() == len(pruned)
    assert table.loc[table["outcome"] == "pruned", "rank"].isna().all()
    assert status(found.folder).state == "finished"
    again = Curves()
    sweep(config, tmp_path, again)
    assert again.sizes == []
    # A continued study with more trials takes up the rungs and curves of the first ones.
    more = sweep(build(config.resolved(), search__trials=30), tmp_path, Curves(2, haste=3))
    assert losses(more) == losses(sweep(build(config.resolved(), search__trials=30), tmp_path / "whole", Curves()))


def test_tpe_learns_from_what_was_pruned(gpt, tmp_path):
    found = sweep(pruned_config(gpt, "median", search__sampler="tpe"), tmp_path, Curves())
    assert {"pruned", "completed"} <= {record.outcome for record in found.records}
    study = Study(found.folder.study, build(gpt, search__sampler="tpe", search__pruner="median",
                  hparams__schedule="constant", search__space={"lr": {"log_uniform": [1e-4, 1.0]}}).search)  # fmt: skip
    known = study._writer.sampler._study.trials
    assert [one.intermediate_values for one in known] == [one.intermediate_values for one in native(found.folder)]
    study.close()


def real(gpt, **changes):
    """A few real trials of which the last learns nothing."""
    config = _real(gpt, **changes)
    seeds = (build(config.resolved(), search__seed=seed) for seed in range(99))
    return next(one for one in seeds if point(one.search, 3)["lr"] == 1e-7)


def _real(gpt, **changes):
    return build(
        gpt, hparams__schedule="constant", hparams__warmup=0.0, training__steps=20, training__log_every=5,
        search__sampler="grid", search__space={"lr": {"choice": [0.02, 0.01, 1e-7, 0.015]}}, search__trials=None,
        search__pruner={"kind": "median", "startup": 1, "min_steps": 10, "lag": 2}, **changes,
    )  # fmt: skip


@pytest.mark.parametrize("every", [0, 5])
def test_real_trials_are_pruned_by_themselves_and_in_packs(gpt, tmp_path, every):
    """By validation loss and, without one on the way, by training loss; the others' curves are untouched."""
    config = real(gpt, training__eval_every=every)
    alone = sweep(config, tmp_path / "alone")
    assert (alone.records[3].outcome, alone.records[3].steps) == ("pruned", 10)
    assert [record.outcome for record in alone.records].count("completed") >= 2
    two, workers = (
        sweep(config, tmp_path / name, executor, pack=2)
        for name, executor in (("two", None), ("workers", LocalExecutor([CPU, Device("cpu", "cpu", 1)])))
    )
    assert losses(two) == losses(workers)
    assert [record.outcome for record in two.records] == [record.outcome for record in alone.records]
    free = sweep(build(config.resolved(), search__pruner=None), tmp_path / "free", pack=2)
    for ours, theirs in zip(two.records, free.records, strict=True):
        assert theirs.outcome == "completed"
        if ours.outcome == "completed":
            assert ours.value == theirs.value


def test_nothing_is_usable_when_the_only_completed_trial_fails(gpt, tmp_path):
    """Pruned trials stand in the message."""

    class Failing(Curves):
        def _run(self, job):
            found = super()._run(job)
            return [{**result(None, "diverged"), "steps": 3} if one["outcome"] == "completed" else one for one in found]

    with pytest.raises(NothingUsable, match=r"no trial completed \(.*diverged"):
        sweep(pruned_config(gpt, "hyperband"), tmp_path, Failing())


@pytest.mark.parametrize("schedule", ["cosine", "linear", "inverse_sqrt", "step"])
def test_an_unfinished_curve_of_a_schedule_is_not_judged(gpt, write, schedule):
    gpt["hparams"]["schedule"] = schedule
    gpt["search"]["pruner"] = "median"
    with pytest.raises(ConfigError, match=rf"yaml:\d+: search\.pruner: needs hparams\.schedule constant, but this is "
                       rf"{schedule}: the unfinished curve"):  # fmt: skip
        load_config(write(gpt))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search__pruner": "medium"}, "search.pruner.kind: must be 'median', 'percentile'"),
        ({"search__pruner": {"kind": "median", "percentile": 20.0}}, "percentile: has no effect with median; it"),
        ({"search__pruner": {"kind": "hyperband", "startup": 3}}, "startup: has no effect with hyperband"),
        ({"search__pruner": {"kind": "median", "reduction": 3}}, "reduction: has no effect with median"),
        ({"search__pruner": {"kind": "median", "min_steps": 12}}, "min_steps: must be less than training.steps"),
        ({"search__stages": [{"steps": 3}, {"keep": 0.5}]}, "search.pruner: is impossible with stages"),
        (
            {"search__sampler": "grid", "search__across": {"model.width": [16]}, "search__trials": None,
             "search__space": {"lr": {"choice": [0.1, 0.2]}}},
            "search.pruner: is impossible with across",
        ),
        ({"training__log_every": 12}, "search.pruner: has no effect: with training.log_every 12 no run is looked at"),
        ({"search__space": {"warmup": {"uniform": [0.0, 0.3]}}}, "search.pruner: is impossible where warmup is swept"),
    ],
)  # fmt: skip
def test_impossible_pruners_are_refused(gpt, write, changes, message):
    gpt["search"]["pruner"] = "median"
    gpt["hparams"]["schedule"] = "constant"
    for path, value in changes.items():
        section, field = path.split("__")
        gpt[section][field] = value
    with pytest.raises(ConfigError) as caught:
        load_config(write(gpt))
    assert message in str(caught.value)


def test_none_is_no_pruner(gpt, tmp_path):
    config = build(gpt, search__pruner="none")
    assert config.search.pruner is None

    class Plain(Curves):
        def submit(self, job):
            assert job.answer is None
            assert "prune_every" not in job.arguments
            future = Future()
            future.set_result(self._run(job))
            return future

    sweep(config, tmp_path, Plain())


def test_other_pruners_are_another_sweep(gpt, tmp_path):
    sweep(pruned_config(gpt, "median"), tmp_path, Curves())
    with pytest.raises(Exception, match=r"(?s)another config.*search\.pruner\.lag: 8 → 9"):
        sweep(pruned_config(gpt, {"kind": "median", "lag": 9}), tmp_path, Curves())
    assert SweepFolder(tmp_path / "runs" / "tiny-gpt").exists
