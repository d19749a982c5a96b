"""Workers per machine."""

from __future__ import annotations

import pytest

from mutransfer.errors import UsageError
from mutransfer.executors import devices


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(devices, "_gpus", lambda threads: [])
    monkeypatch.setattr(devices, "cores", lambda: 8)


@pytest.mark.parametrize(("threads", "workers"), [(1, 8), (2, 4), (3, 2), (16, 1)])
def test_one_worker_per_group_of_cores(threads, workers):
    found = devices.worker_devices(threads=threads)
    assert [device.threads for device in found] == [threads] * workers
    assert found[0].environment["OMP_NUM_THREADS"] == str(threads)


def test_workers_can_be_chosen():
    assert len(devices.worker_devices(workers=3)) == 3
    with pytest.raises(UsageError, match="--workers must be >= 1, but got 0"):
        devices.worker_devices(workers=0)


def test_a_gpu_each_and_more_in_turn(monkeypatch):
    gpus = [devices.Device(f"cuda:{k}", "cuda", 1, {"CUDA_VISIBLE_DEVICES": str(k)}) for k in range(2)]
    monkeypatch.setattr(devices, "_gpus", lambda threads: gpus)
    assert devices.worker_devices() == gpus
    assert devices.worker_devices(workers=1) == gpus[:1]
    assert devices.single_device() == gpus[0]
    assert devices.worker_devices(workers=3) == [*gpus, gpus[0]]


def test_other_threads_leave_a_worker_where_it_is():
    gpu = devices.Device("cuda:1", "cuda", 1, {"CUDA_VISIBLE_DEVICES": "1"})
    other = devices.with_threads(gpu, 4)
    assert (other.name, other.torch_name, other.threads) == ("cuda:1", "cuda", 4)
    assert other.environment == {"CUDA_VISIBLE_DEVICES": "1", "OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"}
    (cpu,) = devices.worker_devices(workers=1)
    assert devices.with_threads(cpu, 4) == devices.worker_devices(workers=1, threads=4)[0]
