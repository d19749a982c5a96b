"""How many trials a worker trains at once, found by training a few steps of the actual config."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import Any

from mutransfer.config.schema import RunConfig
from mutransfer.errors import Interrupted
from mutransfer.executors.base import Executor, Job, JobFailed, Stop, WorkerDied
from mutransfer.executors.devices import Device
from mutransfer.executors.line import line

SIZES = (1, 8, 16, 32, 64, 128)
# A larger pack must be this many times faster per trial than the best smaller one: packs cost memory, and their trials
# end together.
_WORTH = 1.1
_SECONDS = 1.0
# From this many seconds per step on, the overhead that a pack shares is negligible.
_LONG = 0.25
# Steps that are timed: four, or as many as fill a fortieth of a second; of steps that take long, which noise distorts
# least, two.
_LEAST_STEPS = 4
_LEAST_LONG_STEPS = 2
_LONG_STEP = 0.1
# Trials one by one are not measured where a pack is this many times faster than they could possibly be.
_CLEAR = 1.5
# No larger pack is tried after one that is this many times slower per trial than the fastest.
_HOPELESS = 1.5
_POLL_SECONDS = 0.2
# Weights, gradients and optimizer state of one parameter, and the share of free memory that all packs may take.
_BYTES = 32
_SHARE = 0.25


@dataclass(frozen=True)
class Packing:
    """How the trials of one sweep are trained."""

    packed: bool
    """As programs of one or more trials. A trial's losses depend on this in their last bits, not on the size."""
    size: int
    """Trials per program at most."""


ALONE = Packing(packed=False, size=1)


@dataclass(frozen=True)
class Measured:
    """The result of a measurement."""

    packing: Packing
    """The fastest."""
    why: str = ""
    """The reason in words; empty where the trials are too few for packs."""
    seconds: float | None = None
    """Of one step of such a pack; None where they were not measured."""
    lasting: bool = False
    """Whether the measurement was complete, not cut short by a failure or by memory that other programs use."""


def measure_packing(
    config: RunConfig, executor: Executor, *, trials: int, should_stop: Stop = lambda: False
) -> Measured:
    """Time packs of several sizes on every worker at once, as the sweep will load them; none is larger than a worker's
    share of the `trials`, nor than a pruner lets train at once. Raises Interrupted."""
    largest = -(-trials // executor.capacity)
    pruner = config.require_search().pruner
    if pruner is not None:
        largest = min(largest, pruner.largest_pack(executor.capacity))
    sizes = [size for size in SIZES if size <= max(1, largest)]
    if len(sizes) == 1:
        return Measured(ALONE)
    arguments = {"config": config.resolved(), "sizes": sizes}
    job = Job("mutransfer.sweep.packing.measure:time_steps", arguments, config.require_search().hang_after)
    try:
        try:
            found = every_worker(executor, job, should_stop)
        except WorkerDied:  # a single death is not a reason to change how the whole sweep trains
            found = every_worker(executor, job, should_stop)
    except (JobFailed, WorkerDied) as error:
        return Measured(ALONE, f"packs could not be tried: {error}")
    measured = [{int(size): seconds for size, seconds in one["seconds"].items()} for one in found]
    stopped = next((one["stop"] for one in found if one["stop"]), "")
    bounded = any(one["bounded"] for one in found)
    packing, why = choose(measured, stopped, at_least=bounded)
    step = packing.size * statistics.median_low(one[packing.size] for one in measured)
    return Measured(packing, why, step if packing.packed or not bounded else None, lasting=not stopped)


def every_worker(executor: Executor, job: Job, should_stop: Stop) -> list[Any]:
    """The results of the same job on all workers at once."""
    waiting = {executor.submit(job) for _ in range(executor.capacity)}
    landed: set[futures.Future[Any]] = set()
    while waiting:
        if should_stop():
            raise Interrupted("stopped before the first trial; the same command continues")
        done, waiting = futures.wait(waiting, timeout=_POLL_SECONDS)
        landed |= done
    return [future.result() for future in landed]


def choose(measured: Sequence[Mapping[int, float]], stopped: str, *, at_least: bool = False) -> tuple[Packing, str]:
    """The smallest pack that no larger one beats clearly, and why.

    Args:
        measured: `{size: seconds per step and trial}` of each worker; with `at_least` a lower bound for one by one.
        stopped: why no larger size was timed, where the reason matters.
    """
    sizes = sorted(set.intersection(*(set(one) for one in measured)))
    seconds = {size: statistics.median_low(one[size] for one in measured) for size in sizes}
    best = sizes[0]
    for size in sizes:
        best = size if seconds[size] * _WORTH < seconds[best] else best
    if best == 1:
        tried = f"packs of {sizes[1]} were {seconds[1] / seconds[sizes[1]]:.2g} × as fast" if len(sizes) > 1 else ""
        return ALONE, stopped or tried
    least = "at least " if at_least else ""
    return Packing(packed=True, size=best), f"{least}{seconds[1] / seconds[best]:.2g} × as fast as one by one"


def time_steps(device: Device, *, config: dict[str, Any], sizes: Sequence[int]) -> dict[str, Any]:
    """`{size: seconds per step and trial}` in a worker, as far as a second goes; and why it stopped.

    `bounded` says that of one by one only the least that it can take is known, because a pack is clearly faster.
    """
    import torch

    from mutransfer.training.learner import is_out_of_memory

    torch.set_num_threads(device.threads)
    parsed = RunConfig.model_validate({**config, "search": None})
    place = torch.device(device.torch_name)
    seconds: dict[int, float] = {}
    began, stop = time.perf_counter(), ""
    parameters, bounded = 0, True
    for size in sizes:
        if place.type == "cpu" and size * parameters * _BYTES > _free_memory() * _SHARE:
            stop = "" if len(seconds) > 1 else "no memory for packs"
            break
        try:
            step, parameters = _gradients(parsed, place) if size == 1 else pack_step(parsed, size, place)
            seconds[size] = fastest(step, place) / size
        except Exception as error:
            if size == 1:
                raise
            stop = "no memory for packs" if is_out_of_memory(error) else f"its model cannot be packed: {error}"
            break
        if size == 1:
            if seconds[1] > _LONG:
                stop = f"one step of one trial takes {seconds[1]:.2g} s by itself"
                break
            began = time.perf_counter()  # the time before was mostly the import of torch
            continue
        if seconds[size] > _HOPELESS * min(seconds.values()) or time.perf_counter() - began > _SECONDS:
            break
    packs = [value for size, value in seconds.items() if size > 1]
    if bounded and packs and min(packs) * _CLEAR > seconds[1]:
        seconds[1], bounded = fastest(solo_step(parsed, place), place), False
    return {"seconds": seconds, "bounded": bounded, "stop": stop}


def _gradients(config: RunConfig, place: Any) -> tuple[Callable[[int], Any], int]:
    """A function that computes one trial's loss and gradients, without an update, and the parameters of one.

    The least that a step can take: torch's optimizers import for a second, which packs of small models never need.
    """
    from mutransfer.training.learner import Learner

    alone, batches = Learner(config, place), _batches(config)
    return lambda at: alone.gradients(batches[at % 2]), alone.plan.parameter_count


def solo_step(config: RunConfig, place: Any) -> Callable[[int], Any]:
    """A function that trains one step of one trial."""
    from mutransfer.training.learner import Learner

    alone, batches = Learner(config, place), _batches(config)
    return lambda at: alone.train_step(at, batches[at % 2])


def pack_step(config: RunConfig, size: int, place: Any) -> tuple[Callable[[int], Any], int]:
    """A function that trains one step of `size` trials, and the parameters of one."""
    from mutransfer.data import load_data
    from mutransfer.training.alike import require_alike
    from mutransfer.training.pack import PackLearner

    require_alike(config, load_data(config.data))
    pack, batches = PackLearner([config] * size, place), _batches(config)
    return lambda at: pack.train_step(at, [batches[at % 2]]), pack.plan.parameter_count


def _batches(config: RunConfig) -> list[Any]:
    from mutransfer.data import load_data

    data, training = load_data(config.data), config.training
    return [data.batch(step, batch_size=training.batch_size, seed=training.seed) for step in range(2)]


def _free_memory() -> float:
    """Bytes of main memory not in use; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def fastest(step: Callable[[int], Any], place: Any) -> float:
    """Seconds of the fastest of some steps, as others may have met with noise; the first is left out: it allocates."""
    step(0)
    _wait(place)
    times: list[float] = []
    wanted = _LEAST_STEPS
    while len(times) < wanted or (sum(times) < _SECONDS / 40 and len(times) < 50):
        began = time.perf_counter()
        step(len(times) + 1)
        _wait(place)
        line().beat()
        times.append(time.perf_counter() - began)
        wanted = _LEAST_LONG_STEPS if min(times) > _LONG_STEP else _LEAST_STEPS
    return min(times)


def _wait(place: Any) -> None:
    import torch

    if place.type == "cuda":
        torch.cuda.synchronize(place)
