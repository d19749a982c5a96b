"""The worker process: one device, one job after another; it ends when its coordinator does. Imports no torch."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

from mutransfer.errors import MutransferError, UsageError
from mutransfer.executors.base import Job, caught
from mutransfer.executors.devices import Device
from mutransfer.executors.line import PARENT_LOST, PipeLine, connected

# mallopt's names for them in glibc, and the largest values it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_TRIM, _LARGEST_MMAP = 2**31 - 1, 2**25


def serve(connection: Connection[Any, Any], device: Device, warm_up: Job | None = None) -> None:
    """Answer jobs with ("value", …) or ("error", exception) until the connection closes, `warm_up` first and without
    an answer; `PipeLine` says more."""
    # Ctrl-C reaches the whole process group; stopping is the coordinator's to order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(device.environment)
    _keep_freed_memory()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if warm_up is not None:
        _answer(warm_up, device)
    while True:
        try:
            job, threads = connection.recv()
            with connected(PipeLine(connection, job.hang_after)):
                answer = _answer(job, replace(device, threads=threads))
            connection.send(answer)
        except (EOFError, OSError):  # of the connection, as `_answer` raises none: the coordinator is gone
            return


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed: a training step asks for the same blocks again, and the page faults of getting
    them anew were a fifth of a small pack's step."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # another C library
            allocator = ctypes.CDLL(None)
            allocator.mallopt(_TRIM_THRESHOLD, _LARGEST_TRIM)
            allocator.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP)


def _answer(job: Job, device: Device) -> tuple[str, Any]:
    try:
        return "value", job.run(device)
    except MutransferError as error:
        return "error", type(error)(str(error))
    except Exception as error:
        failure = caught(error)
        if failure is not error:
            try:
                tempfile.gettempdir()  # importing torch needs this folder; without it the job is not at fault
            except FileNotFoundError:
                return "error", UsageError(
                    "temporary files cannot be written in any of the usual folders (TMPDIR, /tmp, …): is the disk full?"
                )
        return "error", failure


def _die_with_parent() -> None:
    """A coordinator killed outright cannot end its workers, so they watch it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(PARENT_LOST)
