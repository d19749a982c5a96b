"""One worker process per device of this machine, started on first use and reused for every later job."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import Any

from mutransfer.config.executors import LocalSection
from mutransfer.executors.base import Job, WorkerDied, WorkerHung
from mutransfer.executors.devices import Device, worker_devices
from mutransfer.executors.worker import serve

# fork would share torch's threads and CUDA context with the coordinator; spawn starts clean.
_SPAWN = multiprocessing.get_context("spawn")
_TICK_SECONDS = 0.2


def build(section: LocalSection, *, threads: int, workers: int | None, warm_up: Job) -> LocalExecutor:
    """The executor of a config section; `workers` as `--workers` gives it."""
    return LocalExecutor(worker_devices(workers=workers or section.workers, threads=threads), warm_up=warm_up)


class LocalExecutor:
    """See `base.Executor`."""

    def __init__(self, devices: Sequence[Device], *, warm_up: Job | None = None) -> None:
        """One worker per device; each runs `warm_up` at once, whose result or exception is ignored."""
        self._warm_up = warm_up
        self._workers, self._spare = [_Worker(device, warm_up) for device in devices], list[_Worker]()
        self._make_idle()
        self._closing = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        for worker in self._workers if warm_up is not None else ():
            worker.alive()

    @property
    def capacity(self) -> int:
        """One job per device."""
        return len(self._workers)

    @property
    def devices(self) -> tuple[Device, ...]:  # noqa: D102
        return tuple(worker.device for worker in self._workers)

    def arrange(self, devices: Sequence[Device], *, spare: bool = False) -> None:
        """See `base.Arranging`. Existing processes are reused where possible."""
        self._threads.shutdown(wait=True)
        workers = self._workers + self._spare
        workers += [_Worker(device, self._warm_up) for device in devices[len(workers) :]]
        self._workers, self._spare = workers[: len(devices)], workers[len(devices) :]
        for worker, device in zip(self._workers, devices, strict=True):
            worker.move(device)
        if not spare:
            for worker in self._spare:
                worker.close()
            self._spare = []
        self._make_idle()

    def _make_idle(self) -> None:
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(max_workers=len(self._workers), thread_name_prefix="worker")

    def submit(self, job: Job) -> Future[Any]:  # noqa: D102 - see `base.Executor`
        return self._threads.submit(self._run, job)

    def close(self) -> None:  # noqa: D102
        self._closing.set()
        for worker in self._workers + self._spare:
            worker.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> Any:
        worker = self._idle.get()
        try:
            return worker.run(job)
        finally:
            self._idle.put(worker)

    def _watch(self) -> None:
        """End workers that hang. No clock is compared with another process's, nor with the time of day."""
        before = time.monotonic()
        while not self._closing.wait(_TICK_SECONDS):
            now = time.monotonic()
            # Time beyond a tick passed while this process itself slept (Ctrl-Z, a suspended machine, a busy
            # processor) and could not hear anything.
            passed, before = min(now - before, 2 * _TICK_SECONDS), now
            for worker in self._workers:
                worker.watch(passed)


@dataclass
class _Silence:
    """How long a job has been silent, and whether its worker was ended because that was too long."""

    limit: float
    seconds: float = 0.0
    ended: bool = False


class _Worker:
    """A process bound to one device, replaced when it dies."""

    def __init__(self, device: Device, warm_up: Job | None) -> None:
        self.device, self._warm_up = device, warm_up
        self._process: SpawnProcess | None = None
        self._connection: Connection[Any, Any] | None = None
        self._closed = False
        self._fresh = True
        self._silence: _Silence | None = None
        self._lock = threading.Lock()

    def move(self, device: Device) -> None:
        """Work on another device, in the same process if only the number of CPU threads differs."""
        old, self.device = self.device, device
        if (old.name, old.torch_name) != (device.name, device.torch_name):
            with self._lock:
                self._end()
                self._process = None

    def run(self, job: Job) -> Any:
        """Send one job and wait for its answer."""
        process, connection = self.alive()
        silence = _Silence(job.start_limit(fresh=self._fresh))
        self._listen(silence)
        try:
            connection.send((replace(job, answer=None), self.device.threads))
            while True:
                wait([connection, process.sentinel])
                kind, answer = connection.recv()
                if kind not in ("beat", "question"):
                    break
                with self._lock:
                    silence.limit, silence.seconds = job.hang_after, 0.0
                if kind == "question":
                    connection.send(None if job.answer is None else job.answer(answer))
        except (EOFError, OSError):
            process.join()
            if silence.ended:
                raise WorkerHung(
                    f"worker on {self.device.name} made no progress for {silence.limit:g} s (search.hang_after) and "
                    "was ended"
                ) from None
            raise WorkerDied(f"worker on {self.device.name} died with exit code {process.exitcode}") from None
        except BaseException:
            process.kill()  # it waits for an answer that will not come
            process.join()
            raise
        finally:
            self._listen(None)
        self._fresh = False
        if kind == "error":
            raise answer
        return answer

    def watch(self, passed: float) -> None:
        """Count silent time, and end the process when it exceeds the limit."""
        with self._lock:
            silence = self._silence
            if silence is None or not silence.limit or self._process is None:
                return
            silence.seconds += passed
            if silence.seconds > silence.limit:
                silence.ended = True
                self._process.kill()
                self._process.join(_TICK_SECONDS)

    def _listen(self, silence: _Silence | None) -> None:
        with self._lock:
            self._silence = silence

    def close(self) -> None:
        """End the process for good, whatever it is doing."""
        with self._lock:
            self._closed = True
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def alive(self) -> tuple[SpawnProcess, Connection[Any, Any]]:
        with self._lock:
            if self._closed:
                raise WorkerDied("the executor is closed")
            if self._process is None or self._connection is None or not self._process.is_alive():
                self._connection, theirs = _SPAWN.Pipe()
                self._process = _SPAWN.Process(target=serve, args=(theirs, self.device, self._warm_up), daemon=True)
                self._process.start()
                self._fresh = True
                theirs.close()  # so that reading ends when the worker does
            return self._process, self._connection
