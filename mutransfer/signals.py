"""Ctrl-C and SIGTERM set a flag that loops read, instead of raising an exception at any line."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Inside the context SIGINT and SIGTERM only set a flag. The yielded function returns the flag.

    A second signal is handled as before the context. Outside the main thread no handler is installed, and the flag
    stays false.
    """
    requested = False
    previous: dict[int, signal.Handlers | int | Callable[[int, FrameType | None], object] | None] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        requested = True
        restore()

    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, request) for number in _STOPPING}
    try:
        yield lambda: requested
    finally:
        restore()


LAUNCHER = "MUTRANSFER_LAUNCHER"
"""Environment variable with the process id of the launcher, for a process that must end when its launcher ends."""


def launcher_gone() -> Callable[[], bool]:
    """A function that tells whether the launcher of this process has ended; always false if `LAUNCHER` is not set.

    Removes `LAUNCHER` from the environment, because processes started from here have this process as their parent.
    """
    launcher = os.environ.pop(LAUNCHER, None)
    return lambda: launcher is not None and str(os.getppid()) != launcher
