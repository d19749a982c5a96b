"""Both executors against the contract, and what only worker processes can do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mutransfer.config.executors import InlineSection
from mutransfer.errors import UsageError
from mutransfer.executors.base import Job, JobFailed, WorkerDied, WorkerHung
from mutransfer.executors.devices import Device
from mutransfer.executors.inline import InlineExecutor
from mutransfer.executors.local import LocalExecutor
from mutransfer.testing.executors import HERE, ExecutorContract

CPU = Device("cpu", "cpu", 1, {"OMP_NUM_THREADS": "1", "MUTRANSFER_TEST_MARK": "here"})
THIS = "tests.executors.test_executors"


def environment(device: Device) -> tuple[str, str, bool]:
    import sys

    before = "torch" in sys.modules
    return os.environ["MUTRANSFER_TEST_MARK"], os.environ["OMP_NUM_THREADS"], before


def threads(device: Device) -> tuple[int, int]:
    time.sleep(0.2)  # so that every worker gets one
    return os.getpid(), device.threads


def sleep(device: Device, seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def without_temporary_files(device: Device, full: bool) -> None:
    """Reads a file that is not there; where the `full` disk takes none, nor does any folder for temporary files."""
    import resource
    import tempfile

    tempfile.tempdir = None
    if full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    Path("/nowhere/at/all").read_text(encoding="utf-8")


def die(device: Device) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"  # a zombie has ended


class TestInline(ExecutorContract):
    section = InlineSection

    @pytest.fixture
    def executor(self):
        return InlineExecutor(CPU)


class TestLocal(ExecutorContract):
    @pytest.fixture
    def executor(self):
        executor = LocalExecutor([CPU, CPU])
        yield executor
        executor.close()

    def test_workers_are_other_processes_and_reused(self, executor):
        pids = set()
        for _ in range(3):
            futures = [executor.submit(Job(f"{HERE}:echo", {"value": k})) for k in range(2)]
            pids |= {future.result(timeout=60)[1] for future in futures}
        assert os.getpid() not in pids
        assert len(pids) <= 2

    def test_environment_is_set_before_torch_is_imported(self, executor):
        mark, threads, torch_before = executor.submit(Job(f"{THIS}:environment", {})).result(timeout=60)
        assert (mark, threads, torch_before) == ("here", "1", False)

    def test_death_is_reported_and_mended(self, executor):
        with pytest.raises(WorkerDied, match="exit code -9"):
            executor.submit(Job(f"{THIS}:die", {})).result(timeout=60)
        assert executor.submit(Job(f"{HERE}:echo", {"value": 2})).result(timeout=60)[0] == 2

    def test_a_stopped_worker_is_found_and_replaced(self, executor):
        """SIGSTOP in the middle of a job that had been going on."""
        pid = executor.submit(Job(f"{HERE}:echo", {"value": 0})).result(timeout=60)[1]
        other = executor.submit(Job(f"{THIS}:sleep", {"seconds": 0.3}))  # so that the first takes the next job
        other.result(timeout=60)
        jobs = [executor.submit(Job(f"{HERE}:busy", {"seconds": 30.0}, hang_after=1.0)) for _ in range(2)]
        time.sleep(1.0)
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        done, _ = wait(jobs, timeout=20, return_when=FIRST_COMPLETED)
        assert 0.5 < time.monotonic() - began < 5
        (hung,) = done
        assert isinstance(hung.exception(), WorkerHung)
        assert not alive(pid)

    def test_time_that_the_coordinator_slept_through_is_not_counted(self):
        """Ctrl-Z stops it as well: it cannot have heard anything."""
        job = "Job('mutransfer.testing.executors:busy', {'seconds': 6.0}, hang_after=1.5)"
        code = (
            "from mutransfer.executors.base import Job\nfrom mutransfer.executors.devices import Device\n"
            "from mutransfer.executors.local import LocalExecutor\n"
            "if __name__ == '__main__':\n"
            "    executor = LocalExecutor([Device('cpu', 'cpu', 1)])\n"
            f"    future = executor.submit({job})\n"
            "    print('begun', flush=True)\n    print(future.result())\n    executor.close()\n"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "begun\n"
            time.sleep(1.5)
            process.send_signal(signal.SIGSTOP)
            time.sleep(3)
            process.send_signal(signal.SIGCONT)
            assert process.stdout.read() == "done\n"

    def test_jobs_overlap(self, executor):
        wait([executor.submit(Job(f"{HERE}:echo", {"value": k})) for k in range(2)])  # both workers are up
        began = time.monotonic()
        wait([executor.submit(Job(f"{THIS}:sleep", {"seconds": 1.0})) for _ in range(2)])
        assert time.monotonic() - began < 1.9

    def test_close_ends_busy_workers_at_once(self, executor):
        pid = executor.submit(Job(f"{THIS}:sleep", {"seconds": 0})).result(timeout=60)
        futures = [executor.submit(Job(f"{THIS}:sleep", {"seconds": 60})) for _ in range(2)]
        began = time.monotonic()
        executor.close()
        assert time.monotonic() - began < 10
        assert not alive(pid)
        for future in futures:
            with pytest.raises(WorkerDied):
                future.result(timeout=10)


def test_workers_can_be_had_in_other_numbers():
    """The processes stay, spare ones too until they are let go; a worker of another device is another process."""
    executor = LocalExecutor([CPU, CPU])

    def answers():
        jobs = [executor.submit(Job(f"{THIS}:threads", {})) for _ in range(executor.capacity)]
        return [job.result(timeout=60) for job in jobs]

    try:
        before = answers()
        executor.arrange([replace(CPU, threads=2)], spare=True)
        (fewer,) = answers()
        assert fewer == (before[0][0], 2)
        executor.arrange([CPU, CPU], spare=True)
        assert sorted(answers()) == sorted(before)
        executor.arrange([replace(CPU, name="other")])
        ((pid, count),) = answers()
        assert count == 1
        assert not any(alive(old) for old, _ in before)
        executor.arrange([replace(CPU, name="other"), CPU])
        assert len({pid, *(one for one, _ in answers())}) == 2
    finally:
        executor.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Unix has limits on what a process writes")
def test_a_disk_too_full_for_temporary_files_is_no_fault_of_the_job():
    with closing(LocalExecutor([CPU])) as executor:
        with pytest.raises(JobFailed, match="nowhere"):
            executor.submit(Job(f"{THIS}:without_temporary_files", {"full": False})).result()
        with pytest.raises(UsageError, match="temporary files cannot be written"):
            executor.submit(Job(f"{THIS}:without_temporary_files", {"full": True})).result()
