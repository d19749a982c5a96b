"""Starting the target run: `mutransfer train` in a process of its own."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from mutransfer.errors import Interrupted, LaunchFailed


def launch(config: Path, *, resume: bool) -> dict[str, Any]:
    """Run `mutransfer train CONFIG --json` to its end, its progress on this process's stderr.

    Args:
        resume: continue a run that stands in the config's folder.

    Returns:
        The JSON object that the run printed.

    Raises:
        LaunchFailed: it failed or diverged; its own message stands on stderr.
        Interrupted: it was stopped and can be resumed.
    """
    command = [sys.executable, "-m", "mutransfer", "train", str(config), "--json"]
    if resume:
        command.append("--resume")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - an argument list of ours
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
    try:
        answer = json.loads(output)
    except ValueError:
        answer = {}
    if process.returncode != 0 or not isinstance(answer, dict):
        why = answer.get("error", {}).get("message") or f"exit code {process.returncode}"
        raise LaunchFailed(f"the target run failed: {why}")
    return answer
