"""One worker process per device of this machine, started on first use and reused for every later job."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import Any

from mutransfer.executors.base import Job, WorkerDied
from mutransfer.executors.devices import Device
from mutransfer.executors.worker import serve

# fork would share torch's threads and CUDA context with the coordinator; spawn starts clean.
_SPAWN = multiprocessing.get_context("spawn")


class LocalExecutor:
    """See `base.Executor`."""

    def __init__(self, devices: Sequence[Device], *, warm_up: Job | None = None) -> None:
        """One worker per device.

        Args:
            warm_up: what every worker begins with, at once and not at the first job; what comes of it, an exception
                too, is no one's concern.
        """
        self._workers = [_Worker(device, warm_up) for device in devices]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(max_workers=len(devices), thread_name_prefix="worker")
        for worker in self._workers if warm_up is not None else ():
            worker.start()

    @property
    def capacity(self) -> int:
        """One job per device."""
        return len(self._workers)

    def submit(self, job: Job) -> Future[Any]:
        """See `base.Executor`."""
        return self._threads.submit(self._run, job)

    def close(self) -> None:
        """See `base.Executor`."""
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> Any:
        worker = self._idle.get()
        try:
            return worker.run(job)
        finally:
            self._idle.put(worker)


class _Worker:
    """A process bound to one device, replaced when it dies."""

    def __init__(self, device: Device, warm_up: Job | None) -> None:
        self._device, self._warm_up = device, warm_up
        self._process: SpawnProcess | None = None
        self._connection: Connection[Any, Any] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Have the process begin."""
        self._alive()

    def run(self, job: Job) -> Any:
        """Send one job and wait for its answer."""
        process, connection = self._alive()
        try:
            connection.send(job)
            wait([connection, process.sentinel])
            kind, answer = connection.recv()
        except (EOFError, OSError):
            process.join()
            raise WorkerDied(f"worker on {self._device.name} died with exit code {process.exitcode}") from None
        if kind == "error":
            raise answer
        return answer

    def close(self) -> None:
        """End the process, whatever it is doing, for good."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
                self._process.join()

    def _alive(self) -> tuple[SpawnProcess, Connection[Any, Any]]:
        with self._lock:
            if self._closed:
                raise WorkerDied("the executor is closed")
            if self._process is None or self._connection is None or not self._process.is_alive():
                self._connection, theirs = _SPAWN.Pipe()
                self._process = _SPAWN.Process(target=serve, args=(theirs, self._device, self._warm_up), daemon=True)
                self._process.start()
                theirs.close()  # so that reading ends when the worker does
            return self._process, self._connection
