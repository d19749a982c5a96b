"""Ctrl-C and SIGTERM set a flag that loops read, instead of raising an exception at any line."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mutransfer.errors import Interrupted

_STOPPING = (signal.SIGINT, signal.SIGTERM)


PATIENCE = 30.0
"""Seconds after a signal in which the flag has to be read; a program that is stuck is ended then."""


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Inside the context SIGINT and SIGTERM only set a flag. The yielded function returns the flag.

    A second signal is handled as before the context. Where nobody reads the flag for `PATIENCE` seconds, as in a read
    that never ends, the process exits. Outside the main thread no handler is installed, and the flag stays false.
    """
    requested, noticed = False, threading.Event()
    previous: dict[int, signal.Handlers | int | Callable[[int, FrameType | None], object] | None] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        requested = True
        restore()

    def asked() -> bool:
        if requested:
            noticed.set()
        return requested

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    previous = {number: signal.signal(number, request) for number in _STOPPING}
    with _watched(noticed):
        try:
            yield asked
        finally:
            restore()


@contextmanager
def _watched(noticed: threading.Event) -> Iterator[None]:
    """A thread learns of signals even while the main thread cannot, in a call that does not return."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while number := os.read(reader, 1):
            if number[0] in _STOPPING and not noticed.wait(PATIENCE):
                sys.stderr.write(f"error: stopped at once, as nothing moved for {PATIENCE:g} s; what was saved stays\n")
                sys.stderr.flush()
                os._exit(Interrupted.exit_code)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        noticed.set()
        signal.set_wakeup_fd(before)
        os.close(writer)
        thread.join()
        os.close(reader)


LAUNCHER = "MUTRANSFER_LAUNCHER"
"""Environment variable with the process id of the launcher, for a process that must end when its launcher ends."""


def launcher_gone() -> Callable[[], bool]:
    """A function that tells whether the launcher of this process has ended; always false if `LAUNCHER` is not set.

    Removes `LAUNCHER` from the environment, because processes started from here have this process as their parent.
    """
    launcher = os.environ.pop(LAUNCHER, None)
    return lambda: launcher is not None and str(os.getppid()) != launcher
