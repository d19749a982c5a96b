"""What every executor must do; subclass it with a fixture `executor` and every test runs against it."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from mutransfer.config.executors import BaseExecutorSection, LocalSection
from mutransfer.errors import DataError
from mutransfer.executors import base
from mutransfer.executors.base import Executor, Job, JobFailed, WorkerHung
from mutransfer.executors.devices import Device
from mutransfer.executors.line import line

HERE = "mutransfer.testing.executors"


def echo(device: Device, value: Any) -> tuple[Any, int, str]:
    return value, os.getpid(), device.torch_name


def fail(device: Device, message: str) -> None:
    raise ZeroDivisionError(message)


def refuse(device: Device, message: str) -> None:
    raise DataError(message)


class ExecutorContract:
    section: type[BaseExecutorSection] = LocalSection
    """Its section, which says what it can do."""

    def test_a_job_that_says_nothing_is_ended(self, executor: Executor) -> None:
        if not self.section.can_end_jobs:
            pytest.skip("cannot end a job")
        for job in [executor.submit(Job(f"{HERE}:echo", {"value": k})) for k in range(executor.capacity)]:
            job.result(timeout=60)
        began = time.monotonic()
        with pytest.raises(WorkerHung, match=r"made no progress for 1\.5 s \(search\.hang_after\) and was ended"):
            executor.submit(Job(f"{HERE}:silent", {"seconds": 60}, hang_after=0.5)).result(timeout=30)
        assert 1.4 < time.monotonic() - began < 6
        assert executor.submit(Job(f"{HERE}:echo", {"value": 1})).result(timeout=60)[0] == 1

    def test_a_slow_job_that_goes_on_is_left_alone(self, executor: Executor) -> None:
        assert executor.submit(Job(f"{HERE}:busy", {"seconds": 2.5}, hang_after=0.8)).result(timeout=60) == "done"

    def test_the_start_has_limits_of_its_own(self, executor: Executor) -> None:
        """Three times as long for reading data and compiling, and a minute for importing everything."""
        for seconds, limit in ((1.0, 0.1), (1.5, 1.0)):
            job = Job(f"{HERE}:silent", {"seconds": seconds}, hang_after=limit)
            assert executor.submit(job).result(timeout=60) is None

    def test_a_worker_that_never_begins_is_ended(self, executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
        if not self.section.can_end_jobs:
            pytest.skip("cannot end a job")
        monkeypatch.setattr(base, "START_SECONDS", 1.0)
        with pytest.raises(WorkerHung, match=r"made no progress for 1 s"):
            executor.submit(Job(f"{HERE}:silent", {"seconds": 60}, hang_after=0.1)).result(timeout=30)

    def test_questions_are_answered(self, executor: Executor) -> None:
        if not self.section.answers_questions:
            pytest.skip("answers no questions")
        job = Job(f"{HERE}:curious", {}, answer=lambda question: question["number"] ** 2)
        assert executor.submit(job).result(timeout=60) == [0, 1, 4]
        assert executor.submit(Job(f"{HERE}:curious", {})).result(timeout=60) == [None] * 3

    def test_an_answer_that_fails_ends_the_job_and_not_the_executor(self, executor: Executor) -> None:
        if not self.section.answers_questions:
            pytest.skip("answers no questions")
        job = Job(f"{HERE}:curious", {}, answer=lambda question: 1 // 0)
        with pytest.raises((ZeroDivisionError, JobFailed)):
            executor.submit(job).result(timeout=60)
        assert executor.submit(Job(f"{HERE}:curious", {})).result(timeout=60) == [None] * 3

    def test_value_comes_back(self, executor: Executor) -> None:
        future = executor.submit(Job(f"{HERE}:echo", {"value": {"a": [1.5, None]}}))
        assert future.result(timeout=60)[::2] == ({"a": [1.5, None]}, "cpu")

    def test_exception_comes_back_with_its_traceback(self, executor: Executor) -> None:
        future = executor.submit(Job(f"{HERE}:fail", {"message": "seven"}))
        with pytest.raises(JobFailed, match="ZeroDivisionError: seven") as caught:
            future.result(timeout=60)
        assert "in fail" in caught.value.traceback

    def test_user_error_comes_back_as_itself(self, executor: Executor) -> None:
        future = executor.submit(Job(f"{HERE}:refuse", {"message": "no such file"}))
        with pytest.raises(DataError, match="no such file"):
            future.result(timeout=60)

    def test_goes_on_after_a_failure(self, executor: Executor) -> None:
        with pytest.raises(JobFailed):
            executor.submit(Job(f"{HERE}:fail", {"message": "x"})).result(timeout=60)
        assert executor.submit(Job(f"{HERE}:echo", {"value": 1})).result(timeout=60)[0] == 1

    def test_capacity_jobs_end(self, executor: Executor) -> None:
        futures = [executor.submit(Job(f"{HERE}:echo", {"value": k})) for k in range(executor.capacity)]
        assert sorted(future.result(timeout=60)[0] for future in futures) == list(range(executor.capacity))


def silent(device: Device, seconds: float) -> None:
    time.sleep(seconds)


def busy(device: Device, seconds: float) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        line().beat()
        time.sleep(0.02)
    return "done"


def curious(device: Device) -> list[Any]:
    return [line().ask({"number": number}) for number in range(3)]
