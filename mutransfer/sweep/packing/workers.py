"""How many workers share this machine, and CPU threads of each, found by training a few steps of the actual config.

One worker per core with one thread each is the start. Fewer workers with more threads are better where there are
fewer trials than cores, or where the memory, and not the arithmetic, is what many at once would wait for.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mutransfer.config.schema import RunConfig
from mutransfer.executors.base import Arranging, Executor, Job, JobFailed, Stop, WorkerDied
from mutransfer.executors.devices import Device, cores, shared, with_threads
from mutransfer.sweep.packing.measure import Packing, every_worker

# Another arrangement must be this many times faster, because timings are noisy.
_WORTH = 1.1
# Below this many seconds per step, threads cost more in synchronisation than they save.
_LEAST_SECONDS = 0.01


@dataclass(frozen=True)
class Timed:
    """An arrangement, and the seconds that one step of a worker's pack takes while all its workers train."""

    devices: tuple[Device, ...]
    seconds: float

    def sweep(self, trials: int, pack: int) -> float:
        """Seconds for a step of every trial, when workers take packs until there are none."""
        return math.ceil(trials / (len(self.devices) * pack)) * self.seconds


def arrange_workers(
    config: RunConfig,
    executor: Executor,
    packing: Packing,
    *,
    trials: int,
    seconds: float | None = None,
    should_stop: Stop = lambda: False,
) -> str | None:
    """Time other arrangements of the workers, leave the executor in the fastest and say in words why it is.

    `seconds` is one step of a worker's pack as the workers are now, where that is known. Empty if the workers stay as
    they are; None if a failure cut the measurement short. Raises Interrupted.
    """
    if not isinstance(executor, Arranging) or (seconds is not None and seconds < _LEAST_SECONDS):
        return ""
    others = list(arrangements(executor.devices, packing, trials))
    if not others:
        return ""
    arguments = {"config": config.resolved(), "packed": packing.packed, "size": packing.size}
    job = Job("mutransfer.sweep.packing.workers:time_step", arguments, config.require_search().hang_after)

    def timed(devices: tuple[Device, ...]) -> Timed:
        executor.arrange(devices, spare=True)
        return Timed(devices, statistics.median_low(every_worker(executor, job, should_stop)))

    first = best = Timed(executor.devices, seconds or 0.0)
    failed = False
    try:
        if seconds is None:
            first = best = timed(executor.devices)
        for devices in others if first.seconds >= _LEAST_SECONDS else ():
            found = timed(devices)
            gain = best.sweep(trials, packing.size) / found.sweep(trials, packing.size)
            if gain > _WORTH:
                best = found
            elif gain < 1 / _WORTH:
                break
    except (JobFailed, WorkerDied):  # keep the previous arrangement; a real fault shows when the sweep runs
        failed = True
    executor.arrange(best.devices)
    if best is first:
        return None if failed else ""
    times = first.sweep(trials, packing.size) / best.sweep(trials, packing.size)
    return f"{times:.2g} × as fast as {in_words(first.devices)}"


def arrangements(devices: Sequence[Device], packing: Packing, trials: int) -> Iterator[tuple[Device, ...]]:
    """Arrangements that could be faster than `devices`, the likeliest first; after a clearly slower one the rest are
    skipped."""
    first, packs = devices[0], max(1, math.ceil(trials / packing.size))
    if first.torch_name == "cuda":
        # Packs fill a GPU with less memory; without them a second process may use what the first leaves idle.
        if packing.size == 1:
            for each in (2, 4):
                if len(devices) * each <= trials:
                    yield shared(devices, each)
        return
    if first.torch_name != "cpu":
        return
    available = cores()
    doubled = {first.threads * 2**power for power in range(1, available.bit_length())}
    for threads in sorted(doubled | {available // packs if packs < available else available}):
        if first.threads < threads <= available:
            workers = with_cores_for(devices, threads)[:packs]
            yield tuple(with_threads(device, threads) for device in workers)


def arranged(devices: Sequence[Device], *, workers: int, threads: int) -> tuple[Device, ...]:
    """The devices of `workers` workers with `threads` CPU threads each; more than there are share them."""
    one_each = tuple(with_threads(device, threads) if device.threads != threads else device for device in devices)
    return shared(one_each, math.ceil(workers / len(devices)))[:workers]


def with_cores_for(devices: Sequence[Device], threads: int) -> tuple[Device, ...]:
    """The first of the CPU workers, as many as this machine has cores for with `threads` each; at least one."""
    return tuple(devices[: max(1, cores() // threads)])


def time_step(device: Device, *, config: dict[str, Any], packed: bool, size: int) -> float:
    """Seconds of one training step of `size` trials, in a worker."""
    import torch

    from mutransfer.sweep.packing.measure import fastest, pack_step, solo_step

    torch.set_num_threads(device.threads)
    parsed, place = RunConfig.model_validate({**config, "search": None}), torch.device(device.torch_name)
    step = pack_step(parsed, size, place)[0] if packed else solo_step(parsed, place)
    return fastest(step, place)


def in_words(devices: Sequence[Device]) -> str:
    """`2 worker(s) with 1 thread(s) each`."""
    count, first = len(devices), devices[0]
    if first.torch_name == "cpu":
        return f"{count} worker(s) with {first.threads} thread(s) each"
    return f"{count} worker(s) on {len({device.name for device in devices})} GPU(s)"
