"""Starting the target run: `mutransfer train` in a process of its own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import Any

from mutransfer.errors import Interrupted, LaunchFailed, UsageError
from mutransfer.files import is_held
from mutransfer.signals import LAUNCHER
from mutransfer.training.folder import TrainFolder

_PATIENCE = 10.0
"""Seconds for a run whose launcher was killed to notice it and to save."""


def launch(folder: TrainFolder) -> dict[str, Any]:
    """Run `mutransfer train` on the config in `folder` to its end, its progress on this process's stderr.

    A run that stands in the folder is continued. Whatever ends this process ends the run too, saved.

    Returns:
        The JSON object that the run printed.

    Raises:
        UsageError: another process trains there.
        LaunchFailed: it failed or diverged; its own message stands on stderr.
        Interrupted: it was stopped and can be resumed.
    """
    _wait_for(folder)
    config = folder.config
    command = [sys.executable, "-m", "mutransfer", "train", str(config), "--json"]
    if folder.started:
        command.append("--resume")
    environment = {**os.environ, LAUNCHER: str(os.getpid())}
    process = subprocess.Popen(  # noqa: S603 - an argument list of ours
        command, stdout=subprocess.PIPE, text=True, env=environment
    )
    previous = {
        # Ctrl-C reaches the child by itself, SIGTERM does not; either way the child saves and this one waits.
        signal.SIGINT: signal.signal(signal.SIGINT, lambda number, frame: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, frame: process.terminate()),
    }
    try:
        output, _ = process.communicate()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    again = shlex.join(["mutransfer", "train", str(config), "--resume"])
    # The negative ones: stopped while Python itself was starting.
    if process.returncode in (Interrupted.exit_code, -signal.SIGINT, -signal.SIGTERM):
        raise Interrupted(f"the target run was stopped; continue it with: {again}")
    if process.returncode < 0:
        killer = signal.Signals(-process.returncode)
        why = " (out of memory?)" if killer == signal.SIGKILL else ""
        raise LaunchFailed(f"the target run was killed by {killer.name}{why}; continue it with: {again}")
    try:
        answer = json.loads(output)
    except ValueError:
        answer = {}
    if process.returncode != 0 or not isinstance(answer, dict):
        why = answer.get("error", {}).get("message") or f"exit code {process.returncode}"
        raise LaunchFailed(f"the target run failed: {why}")
    return answer


def _wait_for(folder: TrainFolder) -> None:
    """Let a run end whose launcher was killed."""
    deadline = time.monotonic() + _PATIENCE
    while is_held(folder.lock):
        if time.monotonic() > deadline:
            raise UsageError(f"{folder.root}: another process is training here")
        time.sleep(0.1)
