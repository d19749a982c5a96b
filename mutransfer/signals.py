"""Ctrl-C and SIGTERM as a question that loops ask, instead of an exception anywhere."""

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
    """Within the context SIGINT and SIGTERM only set a flag; the function yielded reads it.

    A second signal takes its usual course, for the user who cannot wait. Outside the main thread nothing is
    installed and the flag stays false.
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
"""Environment variable for a process that is to end with the one that starts it; holds the latter's process id."""


def launcher_gone() -> Callable[[], bool]:
    """A question: whether the process that launched this one has ended, as one does that is killed outright.

    Never where none has set `LAUNCHER`; which is unset, as processes started from here have this one for a parent.
    """
    launcher = os.environ.pop(LAUNCHER, None)
    return lambda: launcher is not None and str(os.getppid()) != launcher
