"""Runs one command and ends everything that it started: a script of its own, started by `training.command`.

    supervisor.py GRACE PID_FILE PROGRAM ARGUMENT…

The worker holds the other end of stdin. When that closes, because the worker wants it so or because it was killed, the
command's process group gets SIGTERM, and SIGKILL after GRACE seconds. On Linux this process also inherits whatever
the command started outside its group (torchrun's ranks have sessions of their own) and ends that too.
The process group goes into PID_FILE for the case that somebody kills this process.

Standard library only, and nothing of mutransfer: it starts in 20 ms.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


def main() -> int:
    """Run the command; its exit code, or 128 + the signal that ended it."""
    grace, pid_file, *command = sys.argv[1:]
    # Only the worker may stop it. Handlers, not SIG_IGN, which the command would inherit.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - a list
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
    with contextlib.suppress(OSError):
        Path(pid_file).write_text(str(child.pid))
    threading.Thread(target=_end_with_worker, args=(child, float(grace)), daemon=True).start()
    code = child.wait()
    _signal_group(child.pid, signal.SIGKILL)
    _end_orphans()
    return code if code >= 0 else 128 - code


def _end_with_worker(child: "subprocess.Popen[bytes]", grace: float) -> None:
    while os.read(0, 1):
        pass
    _signal_group(child.pid, signal.SIGTERM)
    time.sleep(grace)  # main ends this thread when the command ends before
    _signal_group(child.pid, signal.SIGKILL)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _end_orphans() -> None:
    """End what has become this process's child by its own parent's death, until there is nothing more."""
    while orphans := [pid for pid, parent in _processes() if parent == os.getpid()]:
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _processes() -> list[tuple[int, int]]:
    """(pid, parent's pid) of every process; empty where there is no /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # pid (name) state parent …; a name may have spaces and brackets
            found.append((int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])))
    return found


if __name__ == "__main__":
    sys.exit(main())
