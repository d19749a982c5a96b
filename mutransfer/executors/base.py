"""The contract between a coordinator and an executor."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from mutransfer.errors import MutransferError
from mutransfer.executors.devices import Device
from mutransfer.shown import clean, plain

Stop = Callable[[], bool]
"""Asked several times a second; when true the work ends with `Interrupted`."""

START_FACTOR = 3.0
START_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """A function by name, and plain data for it; it may report progress and ask questions (`executors.line`)."""

    target: str
    """`package.module:function`, called as `function(device, **arguments)`."""
    arguments: dict[str, Any]
    hang_after: float = 0.0
    """Seconds without a beat after which the worker is ended; 0: never. `start_limit` is for the first beat."""
    answer: Callable[[Any], Any] | None = None
    """Answers the job's questions. It is called in the coordinator's process, in any thread, and must not wait."""

    def start_limit(self, *, fresh: bool) -> float:
        """Seconds until the first beat, 0 without a limit: reading data and compiling come before the first step, and
        the imports of a `fresh` worker, which has ended no job yet."""
        limit = START_FACTOR * self.hang_after
        return max(limit, START_SECONDS) if self.hang_after and fresh else limit

    def run(self, device: Device) -> Any:
        """Import the function and call it, in this process."""
        home, _, name = self.target.partition(":")
        return getattr(importlib.import_module(home), name)(device, **self.arguments)


class JobFailed(Exception):
    """The job raised; `traceback` is its text."""

    def __init__(self, message: str, traceback: str) -> None:
        self.message, self.traceback = plain(message), clean(traceback)
        super().__init__(self.message, self.traceback)  # both in args, so that it survives pickling

    def __str__(self) -> str:
        return self.message


def caught(error: Exception) -> MutransferError | JobFailed:
    """What a job's future ends with for an exception that the job raised; call it while that is handled."""
    if isinstance(error, MutransferError | JobFailed):
        return error
    return JobFailed(f"{type(error).__name__}: {error}", traceback.format_exc())


class WorkerDied(Exception):
    """The worker's process ended in the middle of the job (killed, out of memory, segmentation fault)."""


class WorkerHung(WorkerDied):
    """The worker was ended because its job reported no progress for `Job.hang_after` seconds."""


class Executor(Protocol):
    """Runs jobs, at most `capacity` at a time."""

    @property
    def capacity(self) -> int:
        """How many jobs run at once; submit no more than that."""

    def submit(self, job: Job) -> Future[Any]:
        """Start a job. Its future ends with the function's value, or with the `MutransferError` that it raised,
        or with `JobFailed` for any other exception, or with `WorkerDied`; after a death the executor is whole
        again. An executor that cannot end a job may ignore `hang_after`."""

    def close(self) -> None:
        """End every worker at once, with the jobs it has; no process is left."""


@runtime_checkable
class Arranging(Executor, Protocol):
    """An executor whose number of workers can change."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """One per worker."""

    def arrange(self, devices: Sequence[Device], *, spare: bool = False) -> None:
        """Have one worker for each of these devices. Call it while no job is running.

        Args:
            spare: keep what is not needed now for the next arrangement.
        """
