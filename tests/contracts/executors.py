"""What every executor must do; subclass it with a fixture `executor` and every test runs against it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from mutransfer.errors import DataError
from mutransfer.executors.base import Job, JobFailed
from mutransfer.executors.devices import Device

HERE = "tests.contracts.executors"


def echo(device: Device, value: Any) -> tuple[Any, int, str]:
    return value, os.getpid(), device.torch_name


def fail(device: Device, message: str) -> None:
    raise ZeroDivisionError(message)


def refuse(device: Device, message: str) -> None:
    raise DataError(message)


class ExecutorContract:
    def test_value_comes_back(self, executor):
        future = executor.submit(Job(f"{HERE}:echo", {"value": {"a": [1.5, None]}}))
        value, _, device = future.result(timeout=60)
        assert value == {"a": [1.5, None]}
        assert device == "cpu"

    def test_exception_comes_back_with_its_traceback(self, executor):
        future = executor.submit(Job(f"{HERE}:fail", {"message": "seven"}))
        with pytest.raises(JobFailed, match="ZeroDivisionError: seven") as caught:
            future.result(timeout=60)
        assert "in fail" in caught.value.traceback

    def test_user_error_comes_back_as_itself(self, executor):
        future = executor.submit(Job(f"{HERE}:refuse", {"message": "no such file"}))
        with pytest.raises(DataError, match="no such file"):
            future.result(timeout=60)

    def test_goes_on_after_a_failure(self, executor):
        with pytest.raises(JobFailed):
            executor.submit(Job(f"{HERE}:fail", {"message": "x"})).result(timeout=60)
        assert executor.submit(Job(f"{HERE}:echo", {"value": 1})).result(timeout=60)[0] == 1

    def test_capacity_jobs_end(self, executor):
        futures = [executor.submit(Job(f"{HERE}:echo", {"value": k})) for k in range(executor.capacity)]
        assert sorted(future.result(timeout=60)[0] for future in futures) == list(range(executor.capacity))
