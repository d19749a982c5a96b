"""The devices of this machine, one worker each: every GPU, or else groups of CPU cores. Imports no torch."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mutransfer.errors import UsageError


@dataclass(frozen=True)
class Device:
    """The device of one worker."""

    name: str
    """For messages: `cuda:1`, `cpu`."""
    torch_name: str
    """torch's name for it inside the worker."""
    threads: int
    """CPU threads for torch."""
    environment: dict[str, str] = field(default_factory=dict)
    """Set before torch is imported."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_devices(*, workers: int | None = None, threads: int = 1) -> list[Device]:
    """One device per worker: by default one per GPU, or one per `threads` CPU cores. More workers than GPUs share them.

    Raises:
        UsageError: fewer than one.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be >= 1, but got {workers}")
    gpus = _gpus(threads)
    if gpus:
        wanted = workers or len(gpus)
        return list(shared(gpus, math.ceil(wanted / len(gpus)))[:wanted])
    return [_cpu(threads)] * (workers or max(1, cores() // threads))


def shared(devices: Sequence[Device], each: int) -> tuple[Device, ...]:
    """Every device `each` times, in turn."""
    return tuple(devices) * each


def with_threads(device: Device, threads: int) -> Device:
    """The same worker with another number of CPU threads."""
    own = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return replace(device, threads=threads, environment={**device.environment, **own})


def single_device() -> Device:
    """The device of a run that has the machine to itself: the first GPU, or all CPU cores."""
    gpus = _gpus(cores())
    return gpus[0] if gpus else _cpu(cores())


def _cpu(threads: int) -> Device:
    return with_threads(Device("cpu", "cpu", threads), threads)


def _gpus(threads: int) -> list[Device]:
    """Ask torch, which honours CUDA_VISIBLE_DEVICES and ROCm's twin, but only where a driver is in sight:
    importing torch takes seconds."""
    if sys.platform == "darwin":
        import torch

        return [Device("mps", "mps", threads)] if torch.backends.mps.is_available() else []
    if not any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        return []
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return [
        Device(f"cuda:{index}", "cuda", threads, {"CUDA_VISIBLE_DEVICES": ids[index].strip()})
        for index in range(torch.cuda.device_count())
    ]
