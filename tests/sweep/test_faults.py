"""The sweep as users run it: real workers, and everything that can happen to them, then the same command again.

The same at random moments, many times: soak.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import optuna
import pytest

from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.status import status
from tests.sweep.faulty import (
    SHAPES,
    TRIALS,
    Sweep,
    ended_curves,
    finish,
    injecting,
    jumping_clock,
    outcome,
    permissions_are_obeyed,
    tear,
    write_config,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    root = tmp_path_factory.mktemp("faults")
    return {shape: write_config(root, shape) for shape in SHAPES}


@pytest.fixture(scope="module")
def undisturbed(configs, tmp_path_factory):
    """What a sweep of each shape gives when nothing happens."""
    known = {}

    def of(shape):
        if shape not in known:
            # Kept between calls where a long soak is run in pieces.
            kept = os.environ.get("MUTRANSFER_SOAK_REFERENCE")
            runs = tmp_path_factory.mktemp(shape) if kept is None else Path(kept) / shape
            if not (runs / "faulty" / "best.yaml").exists():
                shutil.rmtree(runs / "faulty", ignore_errors=True)
                # In packs of another size than everywhere below: the same bits.
                finish(configs[shape], runs, pack=3 if SHAPES[shape][1] > 1 else 1)
            known[shape] = outcome(runs)
            assert len({trial[0] for trial in known[shape][0]}) == TRIALS
        return known[shape]

    return of


def test_one_worker_and_two_give_the_same_trials_and_best(configs, tmp_path, undisturbed):
    errors = finish(configs["packed"], tmp_path, workers=1, check=True)
    assert "with 1 worker(s)" in errors
    assert outcome(tmp_path) == undisturbed("packed")
    command = [sys.executable, "-m", "mutransfer", "sweep", str(configs["packed"]), "--runs", str(tmp_path), "--json"]
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(again.stdout)
    assert answer["outcomes"] == {"completed": TRIALS}
    assert answer["best"] == undisturbed("packed")[1]
    assert outcome(tmp_path) == undisturbed("packed")


@pytest.mark.parametrize("shape", ["packed", "staged"])
def test_sigkill_of_the_coordinator(configs, tmp_path, undisturbed, shape):
    sweep = Sweep(configs[shape], tmp_path)
    sweep.until("[2/")
    assert len(sweep.workers) == 2
    sweep.kill(sweep.pid)
    sweep.end(-signal.SIGKILL)
    assert "of them done already" in finish(configs[shape], tmp_path)
    assert outcome(tmp_path) == undisturbed(shape)


@pytest.mark.parametrize("shape", ["packed", "pruned"])
def test_sigkill_of_workers(configs, tmp_path, undisturbed, shape):
    sweep = Sweep(configs[shape], tmp_path)
    sweep.until("[1/6]")
    time.sleep(0.1)  # the worker that has just ended a trial is at the next one
    sweep.kill(*sweep.workers)
    assert "is tried again: worker on cpu died with exit code -9" in sweep.end(0)
    assert outcome(tmp_path) == undisturbed(shape)


def test_sigkill_of_everything_at_once(configs, tmp_path, undisturbed):
    sweep = Sweep(configs["single"], tmp_path)
    sweep.until("[1/6]")
    sweep.kill(*sweep.workers, sweep.pid)
    sweep.end(-signal.SIGKILL)
    finish(configs["single"], tmp_path)
    assert outcome(tmp_path) == undisturbed("single")


def test_sigkill_during_the_confirmation(configs, tmp_path, undisturbed):
    sweep = Sweep(configs["staged"], tmp_path)
    sweep.until("[3/3]")
    sweep.kill(sweep.pid)
    sweep.end(-signal.SIGKILL)
    assert status(SweepFolder(tmp_path / "faulty")).state == "stopped"
    finish(configs["staged"], tmp_path)
    assert outcome(tmp_path) == undisturbed("staged")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_in_seconds_and_say_how_to_continue(configs, tmp_path, undisturbed, number):
    sweep = Sweep(configs["packed"], tmp_path)
    sweep.until("[1/6]")
    began = time.monotonic()
    sweep.kill(sweep.pid, number=number)
    assert "the same command continues" in sweep.end(4)
    assert time.monotonic() - began < 5
    assert status(SweepFolder(tmp_path / "faulty")).state == "stopped"
    finish(configs["packed"], tmp_path)
    assert outcome(tmp_path) == undisturbed("packed")


@pytest.mark.parametrize("shape", ["packed", "single"])
def test_a_worker_out_of_memory(configs, tmp_path, undisturbed, shape):
    """For once: a pack is halved, a trial by itself is tried again."""
    sweep = Sweep(configs[shape], tmp_path, **injecting("memory", 170, tmp_path / "marker"))
    errors = sweep.end(0)
    said = "a pack of 2 ran out of memory" if shape == "packed" else "is tried again: it ran out of memory"
    assert said in errors
    assert outcome(tmp_path) == undisturbed(shape)


def test_a_worker_that_hangs(configs, tmp_path, undisturbed):
    config = write_config(tmp_path, "packed", hang_after=2.0)
    sweep = Sweep(config, tmp_path, **injecting("hang", 170, tmp_path / "marker"))
    errors = sweep.end(0)
    assert (tmp_path / "marker").exists()
    assert "is tried again: worker on cpu made no progress for 2 s (search.hang_after) and was ended" in errors
    assert outcome(tmp_path)[0] == undisturbed("packed")[0]


def test_a_stopped_worker(tmp_path, undisturbed):
    sweep = Sweep(write_config(tmp_path, "pruned", hang_after=2.0), tmp_path)
    sweep.until("[1/6]")
    sweep.kill(sweep.workers[0], number=signal.SIGSTOP)
    assert "(search.hang_after) and was ended" in sweep.end(0)
    assert outcome(tmp_path)[0] == undisturbed("pruned")[0]


@pytest.mark.parametrize("whose", ["coordinator", "worker"])
def test_a_full_disk(configs, tmp_path, undisturbed, whose):
    sweep = Sweep(configs["packed"], tmp_path)
    sweep.until("[1/6]")
    sweep.fill_disk(*([sweep.pid] if whose == "coordinator" else sweep.workers))
    errors = sweep.end(2)
    assert "cannot be written" in errors
    finish(configs["packed"], tmp_path)
    assert outcome(tmp_path) == undisturbed("packed")


def test_a_read_only_folder(configs, tmp_path, undisturbed):
    if not permissions_are_obeyed(tmp_path):
        pytest.skip("permissions are not obeyed here")
    runs = tmp_path / "runs"
    runs.mkdir(mode=0o555)
    errors = Sweep(configs["packed"], runs, obeys_permissions=True).end(2)
    assert f"{runs}: this folder cannot be written to" in errors
    assert list(runs.iterdir()) == []
    runs.chmod(0o755)
    sweep = Sweep(configs["packed"], runs, obeys_permissions=True)
    sweep.until("[1/6]")
    for folder in (runs / "faulty", runs / "faulty" / "trials"):
        folder.chmod(0o555)
    assert "this folder cannot be written to" in sweep.end(2)
    for folder in (runs / "faulty", runs / "faulty" / "trials"):
        folder.chmod(0o755)
    finish(configs["packed"], runs)
    assert outcome(runs) == undisturbed("packed")


def test_torn_metrics(configs, tmp_path, undisturbed):
    """What a kill in the middle of a write leaves of a trial that has not ended, and worse."""
    sweep = Sweep(configs["single"], tmp_path)
    sweep.until("[1/6]")
    sweep.kill(*sweep.workers, sweep.pid)
    sweep.end(-signal.SIGKILL)
    folder = SweepFolder(tmp_path / "faulty")
    kept = {path: path.read_bytes() for path in ended_curves(folder)}
    assert tear(folder.root, lambda content: content[: len(content) // 2] + b'\xff{"step": 3, "lo')
    for path, content in kept.items():
        path.write_bytes(content)
    finish(configs["single"], tmp_path)
    assert outcome(tmp_path) == undisturbed("single")


def test_a_locked_study(configs, tmp_path, undisturbed):
    """By another program for a while; for longer than the patience with it: test_study.py and soak.py."""
    sweep = Sweep(configs["packed"], tmp_path)
    sweep.until("[1/6]")
    with sqlite3.connect(tmp_path / "faulty" / "study.db", timeout=20) as other:
        other.execute("BEGIN IMMEDIATE")
        time.sleep(3)
        other.rollback()
    sweep.end(0)
    assert outcome(tmp_path) == undisturbed("packed")


def test_a_truncated_study(configs, tmp_path, undisturbed):
    """It is refused, nothing is overwritten, and with the file back the sweep goes on."""
    sweep = Sweep(configs["packed"], tmp_path)
    sweep.until("[1/6]")
    sweep.kill(sweep.pid, number=signal.SIGTERM)
    sweep.end(4)
    folder = tmp_path / "faulty"
    study = folder / "study.db"
    whole = study.read_bytes()
    study.write_bytes(whole[: len(whole) // 2])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert f"{study}: study file is damaged" in Sweep(configs["packed"], tmp_path).end(2)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before
    study.write_bytes(whole)
    finish(configs["packed"], tmp_path)
    assert outcome(tmp_path) == undisturbed("packed")


def test_two_coordinators_at_once(configs, tmp_path, undisturbed):
    both = [Sweep(configs["packed"], tmp_path) for _ in range(2)]
    said = [sweep.end((0, 2)) for sweep in both]
    assert sorted(sweep.process.returncode for sweep in both) == [0, 2]
    refused = said[[sweep.process.returncode for sweep in both].index(2)]
    assert "is being swept by " in refused
    assert outcome(tmp_path) == undisturbed("packed")


def test_a_clock_that_jumps(configs, tmp_path, undisturbed):
    """By days, there and back, in coordinator and workers, with a study in a database, whose lease has to be kept."""
    clock = jumping_clock(tmp_path)
    code = "import time; s = [time.time() for _ in range(15) if time.sleep(0.1) is None]; print(max(s) - min(s))"
    control = subprocess.run([sys.executable, "-c", code], env=clock, capture_output=True, text=True, check=True)
    assert float(control.stdout) > 2 * 86_000
    config = write_config(tmp_path, "staged", hang_after=20.0, storage=f"sqlite:///{tmp_path}/elsewhere.db")
    finish(config, tmp_path, **clock)
    assert outcome(tmp_path) == undisturbed("staged")
    link = json.loads((tmp_path / "faulty" / "study.json").read_text())
    trials = optuna.load_study(study_name=link["study"], storage=link["storage"]).trials
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    now = datetime.now(UTC).replace(tzinfo=None)
    assert any(abs((trial.datetime_start - now).total_seconds()) > 40_000 for trial in trials)
