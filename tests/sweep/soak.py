"""Faults at random moments, for `make soak`: whatever happens on the way, the same command ends the same sweep.

Not collected by `make test`; test_faults.py has a short version of each.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest

from tests.sweep.test_faults import config, finish, outcome, start, uninterrupted, wait_gone, workers_of

__all__ = ["config", "uninterrupted"]  # fixtures

KILLS, SIGNALS = 50, 20


@pytest.fixture(scope="module")
def seconds(config, tmp_path_factory):
    """How long the sweep takes when nothing happens."""
    began = time.monotonic()
    finish(config, tmp_path_factory.mktemp("timed"))
    return time.monotonic() - began


def survivors(process):
    """The coordinator's workers, none where it has ended already."""
    try:
        return workers_of(process.pid)
    except FileNotFoundError:
        return []


@pytest.mark.parametrize("moment", range(KILLS))
def test_sigkill_at_a_random_moment(config, tmp_path, uninterrupted, seconds, moment):
    draw = random.Random(moment)
    process = start(config, tmp_path)
    time.sleep(draw.uniform(0.0, seconds))
    workers = survivors(process)
    victim = ("coordinator", "worker", "both")[moment % 3]
    pids = [process.pid] if victim != "worker" else []
    if workers and victim != "coordinator":
        pids = [draw.choice(workers), *pids]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it was done by itself
    try:
        process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        pytest.fail("the sweep hangs")
    wait_gone(workers)
    finish(config, tmp_path)
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.parametrize("moment", range(SIGNALS))
def test_signal_at_a_random_moment(config, tmp_path, uninterrupted, seconds, moment):
    draw = random.Random(1000 + moment)
    process = start(config, tmp_path)
    time.sleep(draw.uniform(0.5, seconds))  # before that Python itself is starting, and dies of the signal
    workers = survivors(process)
    began = time.monotonic()
    process.send_signal((signal.SIGINT, signal.SIGTERM)[moment % 2])
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, 4), errors
    assert "Traceback" not in errors
    assert time.monotonic() - began < 10
    wait_gone(workers)
    finish(config, tmp_path)
    assert outcome(tmp_path) == uninterrupted
