"""Chooses the packing of a sweep: from the options, from its earlier part, from a similar sweep, or by measurement."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from mutransfer.config.schema import RunConfig
from mutransfer.executors.base import Arranging, Executor, Stop
from mutransfer.executors.devices import cores, with_threads
from mutransfer.sweep.dispatcher import Observer
from mutransfer.sweep.packing.measure import Measured, Packing, measure_packing
from mutransfer.sweep.packing.remembered import FoundPacking, FoundWorkers, Remembered, machine_is_busy
from mutransfer.sweep.packing.workers import arrange_workers, arranged, in_words, with_cores_for

if TYPE_CHECKING:
    from mutransfer.sweep.study import Study

# Processes that may come to share a GPU.
_MOST_EACH = 4
_REMEMBERED = ", as measured for an earlier sweep like this"


def choose_shape(
    config: RunConfig, study: Study, crew: Executor, observer: Observer, stop: Stop, *, pack: int | None, arrange: bool
) -> Packing:
    """Trials that a worker trains at once (`pack` as `--pack` gives it); `arrange` says whether the number of workers
    may change too. Raises Interrupted."""
    packs = config.trainer.packs
    if not packs:
        pack = 1
    missing = config.require_search().trial_count - len(study.records())
    known, memory = study.attributes.get("packing"), None
    # A given pack is not the remembered one, and foreign code changes without the config.
    if isinstance(crew, Arranging) and pack is None and not config.model.foreign:
        memory = Remembered(config, crew.devices, trials=missing)
    if pack is not None:
        measured = Measured(Packing(packed=pack > 1, size=pack))
    elif known is not None:
        measured = Measured(Packing(**known))
    else:
        measured = _packing(config, crew, memory, missing, stop)
        if measured.why:
            observer.shaped(measured.packing.size, measured.why)
    packing = measured.packing
    if known != asdict(packing):
        study.set_attribute("packing", asdict(packing))
    if isinstance(crew, Arranging) and packs:
        threads = study.attributes.get("threads")
        if threads is None:
            free = arrange and config.require_search().threads is None
            if free and (why := _arrangement(config, crew, memory, measured, missing, stop)):
                observer.arranged(in_words(crew.devices), why)
            study.set_attribute("threads", crew.devices[0].threads)
        elif threads != crew.devices[0].threads:  # the number of threads changes the last bits of a loss
            fewer = with_cores_for(crew.devices, threads) if arrange else crew.devices
            crew.arrange([with_threads(device, threads) for device in fewer])
    return packing


def _packing(config: RunConfig, crew: Executor, memory: Remembered | None, trials: int, stop: Stop) -> Measured:
    before = None if memory is None else memory.get(FoundPacking)
    if before is not None:
        why = before.why and before.why + _REMEMBERED
        return Measured(Packing(before.size > 1, before.size), why, before.seconds)
    busy = machine_is_busy()
    found = measure_packing(config, crew, trials=trials, should_stop=stop)
    if memory is not None and found.lasting and not busy:
        memory.put(FoundPacking(size=found.packing.size, why=found.why, seconds=found.seconds))
    return found


def _arrangement(
    config: RunConfig, crew: Arranging, memory: Remembered | None, measured: Measured, trials: int, stop: Stop
) -> str:
    before = None if memory is None else memory.get(FoundWorkers)
    if before is None or before.threads > cores() or before.workers > _MOST_EACH * len(crew.devices):
        busy, seconds = machine_is_busy(), measured.seconds
        found = arrange_workers(config, crew, measured.packing, trials=trials, seconds=seconds, should_stop=stop)
        if memory is not None and found is not None and not busy:
            memory.put(FoundWorkers(workers=len(crew.devices), threads=crew.devices[0].threads, why=found))
        return found or ""
    devices = arranged(crew.devices, workers=before.workers, threads=before.threads)
    if devices == crew.devices:
        return ""
    crew.arrange(devices)
    return before.why + _REMEMBERED
