"""Faults at random moments, for `make soak`: whatever happens on the way, the same command ends the same sweep.

Not collected by `make test`; test_faults.py has a short version of each. MUTRANSFER_SOAK_SEED chooses other moments.
To run it in pieces, MUTRANSFER_SOAK_REFERENCE names a folder that keeps the undisturbed sweeps, and
MUTRANSFER_SOAK_SECONDS is how long one takes.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time

import pytest

from mutransfer.sweep.folder import SweepFolder
from tests.sweep.faulty import (
    SHAPES,
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
from tests.sweep.test_faults import configs, undisturbed

__all__ = ["configs", "undisturbed"]  # fixtures

KILLS, SIGNALS, OTHERS = 50, 20, 8
SEED = int(os.environ.get("MUTRANSFER_SOAK_SEED", "0"))
# Longer than SQLite's patience.
LOCKED_SECONDS = 25


@pytest.fixture(scope="module")
def seconds(configs, undisturbed, tmp_path_factory):
    """How long a sweep takes when nothing happens."""
    known = {}

    def of(shape):
        if "MUTRANSFER_SOAK_SECONDS" in os.environ:
            return float(os.environ["MUTRANSFER_SOAK_SECONDS"])
        if shape not in known:
            undisturbed(shape)
            began = time.monotonic()
            finish(configs[shape], tmp_path_factory.mktemp(f"timed-{shape}"))
            known[shape] = time.monotonic() - began
        return known[shape]

    return of


def drawn(what, moment):
    """Random numbers of this moment, and its shape."""
    draw = random.Random(f"{SEED} {what} {moment}")
    return draw, list(SHAPES)[moment % len(SHAPES)]


@pytest.mark.parametrize("moment", range(KILLS))
def test_sigkill_at_a_random_moment(configs, tmp_path, undisturbed, seconds, moment):
    draw, shape = drawn("kill", moment)
    long = seconds(shape)
    sweep = Sweep(configs[shape], tmp_path)
    time.sleep(draw.uniform(0.0, long))
    workers, victim = sweep.workers, ("coordinator", "worker", "both")[moment % 3]
    pids = [sweep.pid] if victim != "worker" else []
    if workers and victim != "coordinator":
        pids = [draw.choice(workers), *pids]
    sweep.kill(*pids)
    sweep.end((0, -signal.SIGKILL))
    finish(configs[shape], tmp_path)
    assert outcome(tmp_path) == undisturbed(shape)


@pytest.mark.parametrize("moment", range(SIGNALS))
def test_signal_at_a_random_moment(configs, tmp_path, undisturbed, seconds, moment):
    draw, shape = drawn("signal", moment)
    long = seconds(shape)
    sweep = Sweep(configs[shape], tmp_path)
    time.sleep(draw.uniform(0.5, max(1.0, long)))  # before that Python itself is starting, and dies of the signal
    began = time.monotonic()
    sweep.kill(sweep.pid, number=(signal.SIGINT, signal.SIGTERM)[moment % 2])
    sweep.end((0, 4))
    assert time.monotonic() - began < 10
    finish(configs[shape], tmp_path)
    assert outcome(tmp_path) == undisturbed(shape)


@pytest.mark.parametrize("moment", range(OTHERS))
def test_memory_runs_out_at_a_random_step(configs, tmp_path, undisturbed, moment):
    draw, shape = drawn("memory", moment)
    sweep = Sweep(configs[shape], tmp_path, **injecting("memory", draw.randrange(1, 400), tmp_path / "marker"))
    sweep.end(0)
    assert outcome(tmp_path) == undisturbed(shape)


@pytest.mark.parametrize("moment", range(OTHERS))
def test_a_worker_stops_at_a_random_moment(tmp_path, undisturbed, seconds, moment):
    """While it starts, trains or waits: with a limit of 3 s, and a minute for the start."""
    draw, shape = drawn("stop", moment)
    long = seconds(shape)
    sweep = Sweep(write_config(tmp_path, shape, hang_after=3.0), tmp_path)
    time.sleep(draw.uniform(0.3, 0.9) * long)
    for pid in draw.sample(sweep.workers, min(1, len(sweep.workers))):
        sweep.kill(pid, number=signal.SIGSTOP)
    sweep.end(0)
    assert outcome(tmp_path) == undisturbed(shape)


@pytest.mark.parametrize("moment", range(OTHERS))
def test_the_disk_is_full_at_a_random_moment(configs, tmp_path, undisturbed, seconds, moment):
    draw, shape = drawn("disk", moment)
    long = seconds(shape)
    sweep = Sweep(configs[shape], tmp_path)
    time.sleep(draw.uniform(0.1, 0.9) * long)
    victims = ([sweep.pid], sweep.workers, [sweep.pid, *sweep.workers])[moment % 3]
    sweep.fill_disk(*victims)
    errors = sweep.end((0, 2))
    assert sweep.process.returncode == 0 or "cannot be" in errors
    finish(configs[shape], tmp_path)
    assert outcome(tmp_path) == undisturbed(shape)


@pytest.mark.parametrize("moment", range(OTHERS))
def test_the_folder_becomes_read_only_at_a_random_moment(configs, tmp_path, undisturbed, seconds, moment):
    if not permissions_are_obeyed(tmp_path):
        pytest.skip("permissions are not obeyed here")
    draw, shape = drawn("read-only", moment)
    long = seconds(shape)
    sweep = Sweep(configs[shape], tmp_path, obeys_permissions=True)
    time.sleep(draw.uniform(0.1, 0.9) * long)
    folders = [path for path in (tmp_path / "faulty").glob("**") if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    sweep.end((0, 2))
    for folder in folders:
        folder.chmod(0o755)
    finish(configs[shape], tmp_path, obeys_permissions=True)
    assert outcome(tmp_path) == undisturbed(shape)


@pytest.mark.parametrize("moment", range(OTHERS))
def test_metrics_are_torn_and_the_study_truncated(configs, tmp_path, undisturbed, seconds, moment):
    """After a kill at a random moment; what a truncated study is refused with changes no file."""
    draw, shape = drawn("torn", moment)
    long = seconds(shape)
    sweep = Sweep(configs[shape], tmp_path)
    time.sleep(draw.uniform(0.3, 0.9) * long)
    sweep.kill(sweep.pid)
    sweep.end((0, -signal.SIGKILL))
    folder = SweepFolder(tmp_path / "faulty")
    if folder.exists:
        kept = {path: path.read_bytes() for path in ended_curves(folder)}  # which nobody trains again
        whole = {path: path.read_bytes() for path in folder.root.glob("study.db*")}
        tear(folder.root, lambda content: content[: draw.randrange(len(content) + 1)] + b'{"st\xff')
        folder.study.write_bytes(whole[folder.study][: draw.randrange(len(whole[folder.study]))])
        for log in folder.root.glob("study.db-*"):
            log.unlink()
        before = folder.study.read_bytes()
        assert "damaged" in Sweep(configs[shape], tmp_path).end(2)
        assert folder.study.read_bytes() == before
        for path, content in (whole | kept).items():
            path.write_bytes(content)
    finish(configs[shape], tmp_path)
    assert outcome(tmp_path) == undisturbed(shape)


@pytest.mark.parametrize("moment", range(3))
def test_the_study_is_locked_for_longer_than_anybody_waits(configs, tmp_path, undisturbed, moment):
    draw, shape = drawn("lock", moment)
    sweep = Sweep(configs[shape], tmp_path)
    sweep.until("[1/")
    time.sleep(draw.uniform(0.0, 1.0))
    with sqlite3.connect(tmp_path / "faulty" / "study.db", timeout=20) as other:
        other.execute("BEGIN IMMEDIATE")
        time.sleep(LOCKED_SECONDS)
        other.rollback()
    errors = sweep.end((0, 2))
    assert sweep.process.returncode == 0 or "database is locked); the same command continues" in errors
    finish(configs[shape], tmp_path)
    assert outcome(tmp_path) == undisturbed(shape)


@pytest.mark.parametrize("moment", range(OTHERS))
def test_a_second_coordinator_at_a_random_moment(configs, tmp_path, undisturbed, seconds, moment):
    draw, shape = drawn("second", moment)
    long = seconds(shape)
    first = Sweep(configs[shape], tmp_path)
    time.sleep(draw.uniform(0.0, long))
    second = Sweep(configs[shape], tmp_path)
    said = [sweep.end((0, 2)) for sweep in (first, second)]
    codes = [sweep.process.returncode for sweep in (first, second)]
    assert 0 in codes
    assert all("is being swept by " in errors for errors, code in zip(said, codes, strict=True) if code == 2)
    assert outcome(tmp_path) == undisturbed(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_clock_jumps_all_the_time(configs, tmp_path, undisturbed, shape):
    clock = jumping_clock(tmp_path)
    sweep = Sweep(configs[shape], tmp_path, **clock)
    sweep.until("[2/")
    sweep.kill(sweep.pid)
    sweep.end(-signal.SIGKILL)
    finish(configs[shape], tmp_path, **clock)
    assert outcome(tmp_path) == undisturbed(shape)
