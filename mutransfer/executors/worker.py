"""The worker process: one device, jobs one after another, gone when its coordinator is. Imports no torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from multiprocessing.connection import Connection, wait
from typing import Any

from mutransfer.errors import MutransferError
from mutransfer.executors.base import Job, JobFailed
from mutransfer.executors.devices import Device
from mutransfer.executors.line import PARENT_LOST, PipeLine, connected


def serve(connection: Connection[Any, Any], device: Device) -> None:
    """Answer jobs with ("value", …) or ("error", exception) until the connection closes; `PipeLine` says more."""
    # Ctrl-C reaches the whole process group; stopping is the coordinator's to order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(device.environment)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        with connected(PipeLine(connection, job.hang_after)):
            answer = _answer(job, device)
        connection.send(answer)


def _answer(job: Job, device: Device) -> tuple[str, Any]:
    try:
        return "value", job.run(device)
    except MutransferError as error:
        return "error", type(error)(str(error))
    except Exception as error:
        return "error", JobFailed(f"{type(error).__name__}: {error}", traceback.format_exc())


def _die_with_parent() -> None:
    """A coordinator killed outright cannot end its workers, so they watch it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(PARENT_LOST)
