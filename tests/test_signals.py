"""Stopping with the process that launched this one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mutransfer.signals import LAUNCHER, launcher_gone


def test_a_launcher_that_lives_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCHER, str(os.getppid()))
    assert not launcher_gone()()
    assert LAUNCHER not in os.environ  # what is started from here has another parent
    assert not launcher_gone()()


def test_a_launcher_that_is_gone_stops_what_it_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCHER, str(os.getpid()))  # no parent of this process
    assert launcher_gone()()


STUCK = """
import os, sys
from mutransfer import signals
signals.PATIENCE = 0.5
with signals.stop_on_signals() as stopping:
    if sys.argv[1] == "asks":
        import time
        print("ready", flush=True)
        while not stopping():
            time.sleep(0.01)
        time.sleep(1.5)
        sys.exit(9)
    os.mkfifo(sys.argv[2])
    print("ready", flush=True)
    open(sys.argv[2]).read()
"""


@pytest.mark.parametrize(("how", "code"), [("waits", 4), ("asks", 9)])
def test_a_program_that_is_stuck_ends_and_one_that_saves_is_left_alone(tmp_path, how, code):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, how, str(tmp_path / "pipe")], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert ("nothing moved" in errors) == (code == 4)
