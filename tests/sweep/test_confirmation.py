"""The top trials again with further seeds: who wins, what is trained, and that everything names the same winner."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from mutransfer.errors import Interrupted, NothingUsable
from mutransfer.executors.base import JobFailed
from mutransfer.sweep.dispatcher import Observer
from mutransfer.sweep.status import status
from mutransfer.transfer.target import Overrides, make_target
from tests.conftest import build
from tests.sweep.test_coordinator import Scripted, fake, losses, result, sweep


def unlucky(best):
    """The trial whose lr is `best` has the best run with seed 0 and bad ones with others."""

    def answer(config, attempt):
        del attempt
        lr, seed = config["hparams"]["lr"], config["training"]["seed"]
        return result(9.0 if seed and lr == best else abs(lr - best) + 0.001 * seed)

    return answer


@pytest.fixture
def confirmed(gpt):
    return build(gpt, search__trials=6, search__confirm={"top": 3, "seeds": 2})


@pytest.fixture
def answer(confirmed, tmp_path):
    found = sweep(build(confirmed.resolved(), search__confirm={"top": 0}), tmp_path / "first", Scripted(fake))
    return unlucky(found.selection.best.params["lr"])


def test_everything_names_the_same_winner(confirmed, answer, tmp_path):
    executor = Scripted(answer)
    found = sweep(confirmed, tmp_path, executor)
    assert len(executor.jobs) == 6 + 3 * 2
    single = min(found.records, key=lambda record: record.value)
    winner = found.selection.best
    assert winner.number != single.number
    best = yaml.safe_load(found.folder.best.read_text())
    assert best["trial"] == winner.number
    assert best["confirmed"][0] == {"trial": winner.number, "mean": min(found.selection.means.values()), "runs": 3}
    assert len(best["confirmed"]) == 3
    table = pd.read_csv(found.folder.table)
    assert table.loc[table["rank"] == 1, "number"].item() == winner.number
    assert table["mean"].notna().sum() == 3
    assert status(found.folder).best == winner
    target = make_target(found.folder, Overrides(width=64))
    assert target.trial == winner
    assert target.tuning_flops == 12 * 12 * make_target(found.folder, Overrides(width=16)).cost.flops_per_step


@pytest.mark.parametrize("stop_after", range(1, 14))
def test_interrupted_anywhere_gives_the_same_as_uninterrupted(confirmed, answer, tmp_path, stop_after):
    whole = sweep(confirmed, tmp_path / "whole", Scripted(answer))
    asked = iter([False] * stop_after + [True] * 99)
    with pytest.raises(Interrupted):
        sweep(confirmed, tmp_path, Scripted(answer), should_stop=lambda: next(asked))
    again = sweep(confirmed, tmp_path, Scripted(answer))
    assert losses(again) == losses(whole)
    assert again.selection.means == whole.selection.means
    assert again.folder.best.read_text() == whole.folder.best.read_text()


def test_the_next_best_takes_the_place_of_one_that_diverges(confirmed, tmp_path):
    first = sweep(build(confirmed.resolved(), search__confirm={"top": 0}), tmp_path / "first", Scripted(fake))
    order = [record.number for record in first.selection.ranking]
    lr = first.selection.best.params["lr"]

    def answer(config, attempt):
        diverges = config["hparams"]["lr"] == lr and config["training"]["seed"] == 1
        return result(None, "diverged") if diverges else fake(config, attempt)

    executor = Scripted(answer)
    found = sweep(confirmed, tmp_path, executor)
    assert len(executor.jobs) == 6 + 4 * 2
    assert set(found.selection.means) == set(order[1:4])
    assert found.selection.best.number == order[1]
    assert found.selection.ranking[-1].number == order[0]
    assert any(f"trial {order[0]} was among the best, but gave no" in one for one in found.selection.warnings)
    again = Scripted(answer)
    sweep(confirmed, tmp_path, again)
    assert again.jobs == []


def test_when_no_trial_stands_a_further_seed_nothing_is_usable(gpt, tmp_path):
    def answer(config, attempt):
        return result(None, "diverged") if config["training"]["seed"] else fake(config, attempt)

    with pytest.raises(NothingUsable, match=r"no trial gave a result with every seed of search\.confirm"):
        sweep(build(gpt, search__confirm={"top": 1, "seeds": 1}), tmp_path, Scripted(answer))


def test_more_of_them_train_only_what_is_missing(gpt, tmp_path):
    def run(top, seeds):
        executor = Scripted(fake)
        return sweep(build(gpt, search__confirm={"top": top, "seeds": seeds}), tmp_path, executor), executor.jobs

    assert len(run(1, 1)[1]) == 4 + 1
    assert len(run(2, 2)[1]) == 4 - 1
    fewer, jobs = run(1, 1)
    assert jobs == []
    assert len(fewer.selection.means) == 1
    assert fewer.selection.runs == 2


def crashing(confirmed, tmp_path):
    """The trial that is best by its own run crashes with seed 1, every time."""
    first = sweep(build(confirmed.resolved(), search__confirm={"top": 0}), tmp_path / "first", Scripted(fake))
    order = [record.number for record in first.selection.ranking]
    lr = first.selection.best.params["lr"]

    def answer(config, attempt):
        if config["hparams"]["lr"] == lr and config["training"]["seed"] == 1:
            raise JobFailed("OSError: the disk of seed 1", "the traceback")
        return fake(config, attempt)

    return order, answer


def test_a_crash_is_no_verdict_and_is_said_plainly(confirmed, tmp_path):
    """It is retried, the next best takes the place, and everything says that the best was passed over and why."""
    order, answer = crashing(confirmed, tmp_path)
    executor, seen = Scripted(answer), []

    class Watch(Observer):
        def repeated(self, number, seed, value, outcome):
            seen.append((number, seed, value is None, outcome))

    found = sweep(confirmed, tmp_path, executor, observer=Watch())
    assert len(executor.jobs) == 6 + 4 * 2 + confirmed.search.retries
    assert (order[0], 1, True, "crashed") in seen
    assert (order[0], 2, False, "completed") in seen
    assert found.selection.best.number == order[1]
    (warning,) = [one for one in found.selection.warnings if "crashed every time" in one]
    assert f"trial {order[0]} (" in warning
    assert "OSError: the disk of seed 1" in warning
    assert "edge of stability" not in warning
    best = yaml.safe_load(found.folder.best.read_text())
    passed = {"trial": order[0], "seed": 1, "outcome": "crashed", "error": "OSError: the disk of seed 1"}
    assert best["passed_over"] == [passed]
    assert (found.folder.trial(order[0], repeat=1) / "error.txt").read_text() == "the traceback"
    assert status(found.folder).state == "finished"
    assert warning in make_target(found.folder, Overrides(width=64)).warnings


def test_the_same_command_tries_a_crashed_confirmation_again(confirmed, tmp_path):
    order, answer = crashing(confirmed, tmp_path)
    sweep(confirmed, tmp_path, Scripted(answer))
    executor = Scripted(fake)
    found = sweep(confirmed, tmp_path, executor)
    assert [seed for _, seed in executor.jobs] == [1]
    assert found.selection.best.number == order[0]
    assert found.selection.passed_over == ()
    whole = sweep(confirmed, tmp_path / "whole", Scripted(fake))
    assert found.folder.best.read_text() == whole.folder.best.read_text()


def test_divergence_is_told_from_a_crash(confirmed, tmp_path):
    order, _ = crashing(confirmed, tmp_path)
    lr = sweep(build(confirmed.resolved(), search__confirm={"top": 0}), tmp_path / "x", Scripted(fake)).selection.best

    def answer(config, attempt):
        diverges = config["hparams"]["lr"] == lr.params["lr"] and config["training"]["seed"] == 1
        return result(None, "diverged") if diverges else fake(config, attempt)

    found = sweep(confirmed, tmp_path, Scripted(answer))
    best = yaml.safe_load(found.folder.best.read_text())
    assert best["passed_over"] == [{"trial": order[0], "seed": 1, "outcome": "diverged", "error": None}]
    again = Scripted(answer)
    sweep(confirmed, tmp_path, again)
    assert again.jobs == []


def test_when_every_confirmation_crashes_that_is_what_is_said(gpt, tmp_path):
    def answer(config, attempt):
        if config["training"]["seed"]:
            raise JobFailed("MemoryError: no", "the traceback")
        return fake(config, attempt)

    config = build(gpt, search__confirm={"top": 1, "seeds": 1}, search__retries=0)
    with pytest.raises(NothingUsable, match=r"confirmations crashed, the last with: MemoryError: no. The same command"):
        sweep(config, tmp_path, Scripted(answer))
    assert sweep(config, tmp_path, Scripted(fake)).selection.means
