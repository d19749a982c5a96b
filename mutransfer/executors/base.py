"""The contract between a coordinator and what runs its jobs."""

from __future__ import annotations

import importlib
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from mutransfer.executors.devices import Device


@dataclass(frozen=True)
class Job:
    """A function by name and plain data for it: nothing but this travels to a worker."""

    target: str
    """`package.module:function`, called as `function(device, **arguments)`."""
    arguments: dict[str, Any]

    def run(self, device: Device) -> Any:
        """Import the function and call it, in the process this is called in."""
        home, _, name = self.target.partition(":")
        return getattr(importlib.import_module(home), name)(device, **self.arguments)


class JobFailed(Exception):
    """The job raised; `traceback` is its text."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message, traceback)  # both in args, so that it survives pickling
        self.message, self.traceback = message, traceback

    def __str__(self) -> str:
        return self.message


class WorkerDied(Exception):
    """The worker's process ended in the middle of the job (killed, out of memory, segmentation fault)."""


class Executor(Protocol):
    """Runs jobs, at most `capacity` at a time."""

    @property
    def capacity(self) -> int:
        """How many jobs run at once; submit no more than that."""

    def submit(self, job: Job) -> Future[Any]:
        """Start a job. Its future ends with the function's value, or with the `MutransferError` that it raised,
        or with `JobFailed` for any other exception, or with `WorkerDied`; after a death the executor is whole
        again."""

    def close(self) -> None:
        """End every worker at once, with the jobs it has; no process is left."""
