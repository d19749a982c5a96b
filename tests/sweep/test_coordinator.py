"""The sweep without processes: outcomes, retries, resuming, refusals."""

from __future__ import annotations

import errno
from concurrent.futures import Future

import optuna
import pandas as pd
import pytest
import yaml
from filelock import FileLock

from mutransfer.errors import DataError, Interrupted, NothingUsable, UsageError
from mutransfer.executors.base import JobFailed, WorkerDied
from mutransfer.executors.devices import Device
from mutransfer.executors.inline import InlineExecutor
from mutransfer.sweep.coordinator import run_sweep
from mutransfer.sweep.dispatcher import Observer
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.space import point
from mutransfer.sweep.status import newest_finished, status
from mutransfer.sweep.study import Study
from tests.conftest import build

CPU = Device("cpu", "cpu", 1)


class Scripted:
    """An executor whose answers are a function of (trial's lr, attempt): no training."""

    def __init__(self, answer, capacity=2):
        self.capacity, self._answer, self.jobs = capacity, answer, []

    def submit(self, job):
        future = Future()
        try:
            future.set_result([self._one(config) for config in job.arguments["configs"]])
        except Exception as error:
            future.set_exception(error)
        return future

    def _one(self, config):
        self.jobs.append((config["hparams"]["lr"], config["training"]["seed"]))
        return self._answer(config, self.jobs.count(self.jobs[-1]) - 1)

    def close(self):
        pass


def result(value, outcome="completed"):
    return {
        "outcome": outcome, "steps": 12, "training_loss": value, "validation_loss": value, "seconds": 0.1,
        "parameters": 1,
    }  # fmt: skip


def fake(config, attempt):
    return result(abs(config["hparams"]["lr"] - 0.01) + 0.001 * config["training"]["seed"])


def sweep(config, tmp_path, executor=None, **arguments):
    arguments.setdefault("pack", 1)
    return run_sweep(config, runs=tmp_path / "runs", executor=lambda: executor or InlineExecutor(CPU), **arguments)


def losses(found):
    return [(record.number, record.params, record.outcome, record.value) for record in found.records]


def test_trains_every_trial_and_leaves_its_files(gpt, tmp_path):
    found = sweep(build(gpt, search__confirm={"top": 1, "seeds": 1}), tmp_path)
    assert [record.number for record in found.records] == [0, 1, 2, 3]
    assert {record.outcome for record in found.records} == {"completed"}
    assert len({record.value for record in found.records}) == 4
    folder = found.folder
    table = pd.read_csv(folder.table)
    assert list(table["number"]) == [0, 1, 2, 3]
    assert list(table["lr"]) == pytest.approx([record.params["lr"] for record in found.records])
    best = yaml.safe_load(folder.best.read_text())
    assert best["trial"] == found.selection.best.number
    assert best["hparams"]["lr"] == found.selection.best.params["lr"]
    assert best["seed_noise"] > 0
    assert (folder.trial(2) / "metrics.jsonl").exists()
    assert folder.trial(found.selection.best.number, 1).is_dir()


def test_trial_k_has_the_point_of_k(gpt, tmp_path):
    config = build(gpt)
    found = sweep(config, tmp_path, Scripted(fake))
    assert [record.params for record in found.records] == [point(config.search, k) for k in range(4)]


@pytest.mark.parametrize("sampler", ["random", "quasi-random", "grid", "tpe"])
def test_every_sampler_finishes_and_resumes(gpt, tmp_path, sampler):
    gpt["search"].update(sampler=sampler, space={"lr": {"powers": {"base": 2, "start": -9, "stop": -4}}})
    config = build(gpt, search__trials=5)
    asked = iter([False] * 6 + [True] * 99)
    with pytest.raises(Interrupted, match="of 5 trials done; the same command continues"):
        sweep(config, tmp_path, Scripted(fake), should_stop=lambda: next(asked))
    found = sweep(config, tmp_path, Scripted(fake))
    assert [record.number for record in found.records] == [0, 1, 2, 3, 4]
    if sampler != "tpe":
        assert losses(found) == losses(sweep(config, tmp_path / "whole", Scripted(fake)))


@pytest.mark.parametrize("stop_after", range(1, 9))
def test_interrupted_anywhere_gives_the_same_as_uninterrupted(gpt, tmp_path, stop_after):
    config = build(gpt, search__confirm={"top": 1, "seeds": 2})
    whole = sweep(config, tmp_path / "whole", Scripted(fake))
    asked = iter([False] * stop_after + [True] * 99)
    with pytest.raises(Interrupted):
        sweep(config, tmp_path, Scripted(fake), should_stop=lambda: next(asked))
    again = sweep(config, tmp_path, Scripted(fake))
    assert losses(again) == losses(whole)
    assert again.selection.seed_noise == whole.selection.seed_noise


def test_finished_sweep_called_again_trains_nothing(gpt, tmp_path):
    sweep(build(gpt, search__confirm={"top": 1, "seeds": 1}), tmp_path, Scripted(fake))
    executor = Scripted(fake)
    sweep(build(gpt, search__confirm={"top": 1, "seeds": 1}), tmp_path, executor)
    assert executor.jobs == []


def test_more_trials_continue_the_study(gpt, tmp_path):
    sweep(build(gpt, search__trials=2), tmp_path, Scripted(fake))
    executor = Scripted(fake)
    more = sweep(build(gpt, search__trials=4), tmp_path, executor)
    assert len(executor.jobs) == 2
    assert losses(more) == losses(sweep(build(gpt, search__trials=4), tmp_path / "whole", Scripted(fake)))


def test_asked_and_not_told_is_run_again(gpt, tmp_path):
    """What a SIGKILL between ask and tell leaves: a running trial, even one without hparams."""
    config = build(gpt)
    sweep(build(gpt, search__trials=1), tmp_path, Scripted(fake))
    folder = SweepFolder(tmp_path / "runs" / "tiny-gpt")
    study = Study(folder.study, config.search)
    study.ask()
    study.close()
    # As Optuna's own ask leaves it when it is killed before the hparams were drawn.
    optuna.load_study(study_name="mutransfer", storage=f"sqlite:///{folder.study}").ask()
    found = sweep(config, tmp_path, Scripted(fake))
    assert losses(found) == losses(sweep(config, tmp_path / "whole", Scripted(fake)))


def test_diverged_is_recorded_and_never_retried(gpt, tmp_path):
    def answer(config, attempt):
        return result(9.0, "diverged") if config["hparams"]["lr"] > 0.02 else fake(config, attempt)

    executor = Scripted(answer)
    found = sweep(build(gpt, search__trials=8), tmp_path, executor)
    diverged = [record for record in found.records if record.outcome == "diverged"]
    assert diverged
    assert all(record.value is None and record.params["lr"] > 0.02 for record in diverged)
    assert len(executor.jobs) == 8
    again = Scripted(answer)
    sweep(build(gpt, search__trials=8), tmp_path, again)
    assert again.jobs == []


@pytest.mark.parametrize("error", [WorkerDied("worker died"), JobFailed("boom", "Traceback: boom")])
def test_crash_is_retried_and_then_forgiven(gpt, tmp_path, error):
    seen = []

    def answer(config, attempt):
        if attempt == 0:
            raise error
        return fake(config, attempt)

    class Watch(Observer):
        def retrying(self, number, reason):
            seen.append(number)

    found = sweep(build(gpt), tmp_path, Scripted(answer), observer=Watch())
    assert {record.outcome for record in found.records} == {"completed"}
    assert sorted(seen) == [0, 1, 2, 3]
    assert losses(found) == losses(sweep(build(gpt), tmp_path / "whole", Scripted(fake)))


def test_crash_is_retried_a_bounded_number_of_times(gpt, tmp_path):
    config = build(gpt, search__retries=1)
    first = point(config.search, 0)["lr"]

    def answer(config, attempt):
        if config["hparams"]["lr"] == first:
            raise JobFailed("ZeroDivisionError: seven", "the traceback")
        return fake(config, attempt)

    executor = Scripted(answer)
    found = sweep(config, tmp_path, executor)
    assert found.records[0].outcome == "crashed"
    assert found.records[0].error == "ZeroDivisionError: seven"
    assert (found.folder.trial(0) / "error.txt").read_text() == "the traceback"
    assert [lr for lr, _ in executor.jobs].count(first) == 2
    assert any("1 of 4 trials gave no result (crashed)" in warning for warning in found.selection.warnings)


def test_user_error_in_a_worker_ends_the_sweep_with_it(gpt, tmp_path):
    def answer(config, attempt):
        raise DataError("corpus.txt: gone")

    with pytest.raises(DataError, match=r"corpus\.txt: gone"):
        sweep(build(gpt), tmp_path, Scripted(answer))
    assert len(sweep(build(gpt), tmp_path, Scripted(fake)).records) == 4


def test_all_diverged_is_nothing_usable(gpt, tmp_path):
    with pytest.raises(NothingUsable, match=r"no trial completed \(4 diverged\); try lower learning rates"):
        sweep(build(gpt), tmp_path, Scripted(lambda config, attempt: result(9.0, "diverged")))


@pytest.mark.parametrize("trials", [2, 9])
def test_when_every_trial_crashes_the_error_is_told_and_none_is_recorded(gpt, tmp_path, trials):
    """A broken installation must not use a study up."""

    def answer(config, attempt):
        raise JobFailed("KeyError: 'x'", "the traceback")

    executor = Scripted(answer)
    config = build(gpt, search__trials=trials, search__retries=1)
    with pytest.raises(NothingUsable, match=r"every trial crashed, the last with: KeyError: 'x'.*tries again"):
        sweep(config, tmp_path, executor)
    assert len(executor.jobs) <= 2 * 4  # it gives up early
    again = sweep(config, tmp_path, Scripted(fake))
    assert losses(again) == losses(sweep(config, tmp_path / "whole", Scripted(fake)))


def test_all_trials_share_the_seed_and_repeats_have_others(gpt, tmp_path):
    executor = Scripted(fake)
    found = sweep(build(gpt, search__confirm={"top": 1, "seeds": 2}, training__seed=7), tmp_path, executor)
    assert [seed for _, seed in executor.jobs] == [7, 7, 7, 7, 8, 9]
    assert {lr for lr, seed in executor.jobs if seed > 7} == {found.selection.best.params["lr"]}
    assert {record.seed for record in found.records} == {7}


def test_objective_can_be_the_training_loss(gpt, tmp_path):
    def answer(config, attempt):
        return {**result(1.0), "training_loss": config["hparams"]["lr"]}

    found = sweep(build(gpt, search__objective="training_loss"), tmp_path, Scripted(answer))
    assert found.selection.best.value == min(record.params["lr"] for record in found.records)


def test_another_config_under_the_same_name_is_refused(gpt, tmp_path):
    sweep(build(gpt), tmp_path, Scripted(fake))
    with pytest.raises(UsageError, match=r"(?s)another config.*training\.steps: 12 → 13") as caught:
        sweep(build(gpt, training__steps=13, search__seed=1), tmp_path, Scripted(fake))
    assert "search.seed: 0 → 1" in str(caught.value)
    assert len(sweep(build(gpt), tmp_path, Scripted(fake)).records) == 4


def test_other_data_is_refused(gpt, tmp_path, corpus):
    from mutransfer.data import load_data

    sweep(build(gpt), tmp_path, Scripted(fake))
    corpus.write_text(corpus.read_text() + "more")
    load_data.cache_clear()
    with pytest.raises(UsageError, match="the data has changed since this sweep began"):
        sweep(build(gpt), tmp_path, Scripted(fake))


def test_two_coordinators_are_refused(gpt, tmp_path):
    class Intruder(Observer):
        def ended(self, record, done, total, best):
            with pytest.raises(UsageError, match=r"is being swept by process \d+ on "):
                sweep(build(gpt), tmp_path, Scripted(fake))
            assert status(SweepFolder(tmp_path / "runs" / "tiny-gpt")).state == "running"

    sweep(build(gpt), tmp_path, Scripted(fake), observer=Intruder())
    assert status(SweepFolder(tmp_path / "runs" / "tiny-gpt")).state == "finished"


def test_out_of_memory_is_an_outcome(gpt, tmp_path, monkeypatch):
    from mutransfer.training import learner

    def full(self, step, batch):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr(learner.Learner, "train_step", full)
    with pytest.raises(NothingUsable, match="4 out of memory"):
        sweep(build(gpt), tmp_path)


def test_tpe_does_not_draw_its_first_trials_again_on_resume(gpt, tmp_path):
    sweep(build(gpt, search__sampler="tpe", search__trials=3), tmp_path, Scripted(fake))
    found = sweep(build(gpt, search__sampler="tpe", search__trials=6), tmp_path, Scripted(fake))
    assert len({record.params["lr"] for record in found.records}) == 6


def test_study_that_cannot_be_written_is_one_clear_error(gpt, tmp_path):
    """What a full disk looks like to SQLite, half way through."""
    import sqlite3

    def answer(config, attempt):
        connection = sqlite3.connect(tmp_path / "runs" / "tiny-gpt" / "study.db")
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON trials BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
        connection.commit()
        connection.close()
        return fake(config, attempt)

    with pytest.raises(UsageError, match=r"study cannot be written \(.*disk is full.*the same command continues"):
        sweep(build(gpt), tmp_path, Scripted(answer, capacity=1))
    connection = sqlite3.connect(tmp_path / "runs" / "tiny-gpt" / "study.db")
    connection.execute("DROP TRIGGER full")
    connection.commit()
    connection.close()
    assert losses(sweep(build(gpt), tmp_path, Scripted(fake))) == losses(
        sweep(build(gpt), tmp_path / "whole", Scripted(fake))
    )


def test_results_that_cannot_be_written_do_not_hide_why_a_sweep_ended(gpt, tmp_path, monkeypatch):
    def full(*arguments):
        raise UsageError("trials.csv: cannot be written: No space left on device")

    monkeypatch.setattr("mutransfer.sweep.coordinator.write_results", full)
    with pytest.raises(Interrupted):
        sweep(build(gpt), tmp_path, Scripted(fake), should_stop=lambda: True)
    with pytest.raises(UsageError, match="No space left"):
        sweep(build(gpt), tmp_path, Scripted(fake))


def test_a_sweep_on_a_read_only_disk_is_not_running(gpt, tmp_path, monkeypatch):
    folder = sweep(build(gpt), tmp_path, Scripted(fake)).folder

    def refuse(self):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "__enter__", refuse)
    assert status(folder).state == "finished"


def test_sweep_whose_repeats_are_missing_is_not_finished(gpt, tmp_path):
    config = build(gpt, search__confirm={"top": 1, "seeds": 2})
    executor = Scripted(fake)
    with pytest.raises(Interrupted, match="4 of 4 trials done and the best ones to confirm"):
        sweep(config, tmp_path, executor, should_stop=lambda: any(seed for _, seed in executor.jobs))
    folder = SweepFolder(tmp_path / "runs" / "tiny-gpt")
    assert status(folder).state == "stopped"
    sweep(config, tmp_path, Scripted(fake))
    assert status(folder).state == "finished"


def test_newest_finished_passes_over_sweeps_without_a_winner(gpt, tmp_path):
    good = sweep(build(gpt), tmp_path, Scripted(fake)).folder
    with pytest.raises(NothingUsable):
        sweep(build(gpt, name="bad"), tmp_path, Scripted(lambda config, attempt: result(9.0, "diverged")))
    assert newest_finished(tmp_path / "runs").root == good.root
    good.study.unlink()
    with pytest.raises(UsageError, match=r"not finished: bad \(no trial completed\)"):
        newest_finished(tmp_path / "runs")
