"""Jobs in the coordinator's own process, one at a time: for debuggers and tests."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from mutransfer.config.executors import InlineSection
from mutransfer.errors import UsageError
from mutransfer.executors.base import Job, caught
from mutransfer.executors.devices import Device, single_device, with_threads
from mutransfer.executors.line import InlineLine, connected


def build(section: InlineSection, *, threads: int, workers: int | None, warm_up: Job) -> InlineExecutor:
    """The executor of a config section, on the one device of `mutransfer train`.

    Raises:
        UsageError: several workers are asked for.
    """
    del section, warm_up
    if workers not in (None, 1):
        raise UsageError(f"--workers {workers}: executor inline runs one job at a time; use executor local")
    return InlineExecutor(with_threads(single_device(), threads))


class InlineExecutor:
    """See `base.Executor`; `submit` returns when the job is done, and a job that hangs blocks everything."""

    def __init__(self, device: Device) -> None:
        self._device = device

    @property
    def capacity(self) -> int:
        """One."""
        return 1

    def submit(self, job: Job) -> Future[Any]:  # noqa: D102
        future: Future[Any] = Future()
        try:
            with connected(InlineLine(job.answer)):
                future.set_result(job.run(self._device))
        except Exception as error:
            future.set_exception(caught(error))
        return future

    def close(self) -> None:
        """Nothing to end."""
