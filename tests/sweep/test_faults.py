"""The sweep as users run it: real workers, killed at awkward moments, then the same command again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.status import status

TRIALS = 6
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("faults")
    (root / "corpus.txt").write_text(
        "".join(f"{k * k} bottles of beer on the wall, take {k} down\n" for k in range(999))
    )
    data = {
        "name": "faulty",
        "model": {"kind": "gpt", "width": 16, "base_width": 16, "depth": 1, "head_dim": 8},
        "data": {"kind": "text", "paths": [str(root / "corpus.txt")], "seq_len": 32},
        "training": {"steps": 150, "batch_size": 8},
        "search": {"trials": TRIALS, "confirm": {"seeds": 1}, "space": {"lr": {"log_uniform": [1e-3, 1e-1]}}},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(data))
    return root / "config.yaml"


def start(config, runs, workers=2, pack=2):
    command = [sys.executable, "-m", "mutransfer", "sweep", str(config), "--runs", str(runs), "--workers", str(workers)]
    command += ["--pack", str(pack)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(config, runs, workers=2, pack=2):
    process = start(config, runs, workers, pack)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output, errors


def until(process, beginning):
    """Read the progress until a line begins so."""
    for line in process.stderr:
        if line.startswith(beginning):
            return
    pytest.fail(f"no line {beginning!r} before the end")


def children(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def workers_of(pid):
    return [child for child in children(pid) if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def wait_gone(pids, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        left = [pid for pid in pids if Path(f"/proc/{pid}").exists() and state(pid) != "Z"]
        if not left:
            return
        time.sleep(0.05)
    pytest.fail(f"processes left over: {left}")


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def outcome(runs):
    """Everything that must not depend on what happened on the way."""
    found = status(SweepFolder(runs / "faulty"))
    best = yaml.safe_load((runs / "faulty" / "best.yaml").read_text())
    trials = [(one.number, one.params, one.outcome, one.value, one.training_loss, one.steps) for one in found.records]
    curves = {
        path.parent.name: path.read_text() for path in sorted((runs / "faulty" / "trials").glob("*/metrics.jsonl"))
    }
    return trials, best, curves


@pytest.fixture(scope="module")
def uninterrupted(config, tmp_path_factory):
    runs = tmp_path_factory.mktemp("uninterrupted")
    finish(config, runs, pack=3)  # packs of another size than everywhere below: the same bits
    trials, best, curves = outcome(runs)
    assert [trial[0] for trial in trials] == list(range(TRIALS))
    assert len(curves) == TRIALS + 1
    return trials, best, curves


def test_one_worker_and_two_give_the_same_trials_and_best(config, tmp_path, uninterrupted):
    _, errors = finish(config, tmp_path, workers=1)
    assert "with 1 worker(s)" in errors
    assert outcome(tmp_path) == uninterrupted


def test_sigkill_of_the_coordinator(config, tmp_path, uninterrupted):
    process = start(config, tmp_path)
    until(process, "[2/6]")
    workers = workers_of(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    wait_gone(workers)
    _, errors = finish(config, tmp_path)
    assert "of them done already" in errors
    assert outcome(tmp_path) == uninterrupted


def test_sigkill_of_workers(config, tmp_path, uninterrupted):
    process = start(config, tmp_path)
    until(process, "[1/6]")
    time.sleep(0.1)  # the worker that has just ended a trial is at the next one
    for pid in workers_of(process.pid):
        os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "is tried again: worker on cpu died with exit code -9" in errors
    assert outcome(tmp_path) == uninterrupted


def test_sigkill_of_everything_at_once(config, tmp_path, uninterrupted):
    process = start(config, tmp_path)
    until(process, "[1/6]")
    for pid in [*workers_of(process.pid), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    finish(config, tmp_path)
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_in_seconds_and_say_how_to_continue(config, tmp_path, uninterrupted, number):
    process = start(config, tmp_path)
    until(process, "[1/6]")
    workers = workers_of(process.pid)
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert process.returncode == 4
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    wait_gone(workers)
    assert status(SweepFolder(tmp_path / "faulty")).state == "stopped"
    finish(config, tmp_path)
    assert outcome(tmp_path) == uninterrupted


def test_finished_sweep_answers_again_in_json(config, tmp_path, uninterrupted):
    finish(config, tmp_path)
    command = [sys.executable, "-m", "mutransfer", "sweep", str(config), "--runs", str(tmp_path), "--json"]
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(again.stdout)
    assert answer["outcomes"] == {"completed": TRIALS}
    assert answer["best"] == uninterrupted[1]
    assert outcome(tmp_path) == uninterrupted
