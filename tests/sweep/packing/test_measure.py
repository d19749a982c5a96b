"""Trials in packs: how many at once, and that nothing else depends on it."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
import torch

from mutransfer.errors import Interrupted, UsageError
from mutransfer.executors.base import Job, JobFailed, WorkerDied
from mutransfer.executors.devices import Device
from mutransfer.executors.inline import InlineExecutor
from mutransfer.models import mlp as mlp_module
from mutransfer.sweep.dispatcher import Observer
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.packing import measure
from mutransfer.sweep.packing.measure import ALONE, Measured, Packing, choose, measure_packing, time_steps
from mutransfer.sweep.study import Study
from mutransfer.training import pack
from tests.conftest import build
from tests.sweep.test_coordinator import Scripted, fake, losses, result, sweep

CPU = Device("cpu", "cpu", 1)


class Watch(Observer):
    """Notes what is decided."""

    def __init__(self):
        self.shapes, self.retried = [], []

    def shaped(self, pack, why):
        self.shapes.append((pack, why))

    def retrying(self, number, reason):
        self.retried.append(number)


class Sized(Scripted):
    """Notes the size of every job, and runs out of memory beyond `most` trials."""

    def __init__(self, answer=fake, capacity=2, most=99):
        super().__init__(answer, capacity)
        self.sizes, self.most = [], most

    def submit(self, job):
        self.sizes.append(len(job.arguments["configs"]))
        if self.sizes[-1] <= self.most:
            return super().submit(job)
        small = Scripted(lambda config, attempt: result(None, "out_of_memory"))
        return small.submit(job)


def test_a_packed_sweep_is_the_sweep_in_any_size(gpt, tmp_path):
    """Packs of 2, 3 and 4 give the same bits, and one by one the same up to rounding."""
    config = build(gpt, search__confirm={"top": 1, "seeds": 1}, search__trials=5)
    found = {size: sweep(config, tmp_path / str(size), pack=size) for size in (1, 2, 3, 5)}
    assert losses(found[2]) == losses(found[3]) == losses(found[5])

    def curves(size):
        root = found[size].folder.trials
        return {path.parent.name: path.read_text() for path in sorted(root.glob("*/metrics.jsonl"))}

    assert curves(2) == curves(3) == curves(5)
    assert len(curves(2)) == 6  # the repeat too
    for packed, alone in zip(found[2].records, found[1].records, strict=True):
        assert packed.params == alone.params
        assert packed.value == pytest.approx(alone.value, rel=1e-4)


def test_workers_share_trials_evenly(gpt, tmp_path):
    executor = Sized()
    sweep(build(gpt, search__trials=10), tmp_path, executor, pack=8)
    assert executor.sizes == [5, 5]
    executor = Sized()
    sweep(build(gpt, search__trials=11, name="more"), tmp_path, executor, pack=4)
    assert executor.sizes == [4, 4, 2, 1]


def test_out_of_memory_halves_the_pack(gpt, tmp_path):
    executor, watch = Sized(most=2), Watch()
    config = build(gpt, search__trials=8)
    found = sweep(config, tmp_path, executor, pack=8, observer=watch)
    assert max(executor.sizes) == 4
    assert executor.sizes[-1] <= 2
    assert watch.shapes[0] == (2, "a pack of 4 ran out of memory")
    assert losses(found) == losses(sweep(config, tmp_path / "whole", Scripted(fake)))


def test_a_larger_pack_that_comes_back_late_without_memory_makes_packs_no_larger(gpt, tmp_path):
    """Of two packs of 8 the first comes back when the other worker has no memory for 2 any more."""

    class Late(Sized):
        held = None

        def submit(self, job):
            future = super().submit(job)
            if len(self.sizes) == 1:
                self.held, future = (Future(), future.result()), None
                return self.held[0]
            if self.sizes[-1] == 1 and not self.held[0].done():
                self.held[0].set_result(self.held[1])
            return future

    executor, watch = Late(most=1), Watch()
    sweep(build(gpt, search__trials=16), tmp_path, executor, pack=8, observer=watch)
    sizes = [size for size, _ in watch.shapes]
    assert executor.sizes[:2] == [8, 8]
    assert sizes == sorted(sizes, reverse=True)
    assert set(executor.sizes[5:]) == {1}


def test_no_larger_pack_is_tried_than_a_pruner_lets_train(gpt):
    gpt["hparams"]["schedule"] = "constant"
    config = build(gpt, search__trials=256, search__pruner={"kind": "median", "lag": 4}, training__log_every=3)
    asked = []

    class Noting(InlineExecutor):
        capacity = 2

        def submit(self, job: Job):
            asked.append(job.arguments["sizes"])
            return super().submit(job)

    assert measure_packing(config, Noting(CPU), trials=256) == Measured(ALONE)
    assert asked == []  # packs of 2 are not worth a measurement


def test_a_pack_of_compiled_runs_is_refused(gpt, tmp_path):
    with pytest.raises(UsageError, match=r"--pack 4: training\.compile"):
        sweep(build(gpt, training__compile=True), tmp_path, InlineExecutor(CPU), pack=4)
    assert not (tmp_path / "runs").exists()


def test_one_trial_without_memory_is_an_outcome(gpt, tmp_path):
    poison = []

    def answer(config, attempt):
        poison.append(config["hparams"]["lr"])
        return result(None, "out_of_memory") if config["hparams"]["lr"] == poison[0] else fake(config, attempt)

    found = sweep(build(gpt), tmp_path, Scripted(answer), pack=2)
    assert sorted(record.outcome for record in found.records) == ["completed"] * 3 + ["out_of_memory"]


@pytest.mark.parametrize("failure", [JobFailed("boom", "a traceback"), WorkerDied("worker on cpu died")])
def test_a_pack_that_fails_is_tried_again_one_by_one(gpt, tmp_path, failure):
    """One poisonous trial takes its pack along once; the others complete."""
    seen = []

    def answer(config, attempt):
        seen.append(config["hparams"]["lr"])
        if len(seen) > 1 and config["hparams"]["lr"] == seen[1]:
            raise failure
        return fake(config, attempt)

    executor, watch = Sized(answer), Watch()
    found = sweep(build(gpt, search__retries=1), tmp_path, executor, pack=2, observer=watch)
    assert [record.outcome for record in found.records] == ["completed", "crashed", "completed", "completed"]
    assert executor.sizes[:2] == [2, 2]
    assert set(executor.sizes[2:]) == {1}
    assert watch.retried == [0, 1]


def test_a_resumed_sweep_packs_as_it_began(gpt, tmp_path):
    config = build(gpt, search__trials=6)
    asked = iter([False] * 4 + [True] * 99)
    with pytest.raises(Interrupted):
        sweep(config, tmp_path, Sized(capacity=1), pack=2, should_stop=lambda: next(asked))
    executor = Sized(capacity=1)
    sweep(config, tmp_path, executor, pack=None)
    assert set(executor.sizes) == {2}
    study = Study(SweepFolder(tmp_path / "runs" / "tiny-gpt").study, None)
    assert study.attributes["packing"] == {"packed": True, "size": 2}
    study.close()


@pytest.mark.parametrize(
    ("measured", "chosen"),
    [
        ([{1: 1.0, 8: 0.5, 16: 0.3, 32: 0.29}], Packing(True, 16)),  # 32 is no gain worth its memory
        ([{1: 1.0, 8: 0.95}], ALONE),
        ([{1: 1.0, 8: 1.2, 16: 0.8}], Packing(True, 16)),
        ([{1: 1.0, 8: 0.5, 16: 0.2}, {1: 1.0, 8: 0.5}], Packing(True, 8)),  # only what every worker has timed
        ([{1: 1.0}], ALONE),
        ([{1: 1.0, 8: 0.2}, {1: 1.0, 8: 2.0}, {1: 1.0, 8: 2.0}], ALONE),
    ],
)
def test_choice_of_the_size(measured, chosen):
    packing, why = choose(measured, "")
    assert packing == chosen
    assert ("× as fast as one by one" in why) == chosen.packed


def test_sizes_are_measured_on_the_config_itself(mlp):
    config = build(mlp, search__trials=64)
    measured = time_steps(CPU, config=config.resolved(), sizes=[1, 8])
    assert set(measured["seconds"]) == {1, 8}
    assert all(0 < value < 1 for value in measured["seconds"].values())
    found = measure_packing(config, InlineExecutor(CPU), trials=64)
    assert found.why
    assert found.lasting
    assert found.packing.packed == (found.packing.size > 1)
    assert measure_packing(config, InlineExecutor(CPU), trials=7) == Measured(ALONE)


def test_a_model_that_cannot_be_packed_trains_one_by_one_and_says_why(mlp, monkeypatch):
    monkeypatch.setitem(mlp_module._ACTIVATIONS, "relu", lambda x: x * float(x.max().item() > 0))
    found = measure_packing(build(mlp, search__trials=64), InlineExecutor(CPU), trials=64)
    assert found.packing == ALONE
    assert found.why.startswith("its model cannot be packed: ")
    assert "item()" in found.why


def test_no_memory_for_packs_is_no_failure(mlp, monkeypatch):
    def full(*given):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(pack.PackLearner, "train_step", full)
    config = build(mlp, search__trials=64)
    assert measure_packing(config, InlineExecutor(CPU), trials=64) == Measured(ALONE, "no memory for packs")
    monkeypatch.undo()
    monkeypatch.setattr(measure, "_free_memory", lambda: 1e5)
    assert measure_packing(config, InlineExecutor(CPU), trials=64) == Measured(ALONE, "no memory for packs")


def test_a_long_step_needs_no_pack(mlp, monkeypatch):
    monkeypatch.setattr(measure, "_LONG", 0.0)
    measured = time_steps(CPU, config=build(mlp).resolved(), sizes=[1, 8])
    assert set(measured["seconds"]) == {1}
    assert "by itself" in measured["stop"]


def test_failed_and_stopped_measurements(mlp):
    class Broken(InlineExecutor):
        def submit(self, job: Job):
            return super().submit(Job("mutransfer.nowhere:gone", {}))

    config = build(mlp, search__trials=64)
    found = measure_packing(config, Broken(CPU), trials=64)
    assert found.packing == ALONE
    assert not found.lasting
    assert found.why.startswith("packs could not be tried: ")
    with pytest.raises(Interrupted, match="the same command continues"):
        measure_packing(config, InlineExecutor(CPU), trials=64, should_stop=lambda: True)
