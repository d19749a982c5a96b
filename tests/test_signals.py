"""Stopping with the process that launched this one."""

from __future__ import annotations

import os

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
