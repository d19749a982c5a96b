"""A sweep like an earlier one takes over what was measured for that; another, or a damaged or old finding, does not."""

from __future__ import annotations

import json

import pytest

from mutransfer.data.cache import cache_folder
from mutransfer.executors import devices as machine
from mutransfer.executors.devices import Device, worker_devices
from mutransfer.sweep.packing import choose, remembered, workers
from mutransfer.sweep.packing.measure import Measured, Packing
from mutransfer.sweep.packing.remembered import FoundPacking, FoundWorkers, Remembered
from mutransfer.sweep.packing.workers import arranged
from tests.conftest import build
from tests.sweep.packing.test_workers import Machine
from tests.sweep.test_coordinator import sweep

GPUS = [Device(f"cuda:{index}", "cuda", 1) for index in range(2)]
FOUND = FoundPacking(size=8, why="fast", seconds=0.1)


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch):
    monkeypatch.setattr(machine, "_gpus", lambda threads: [])
    for module in (machine, workers, choose):
        monkeypatch.setattr(module, "cores", lambda: 8)
    monkeypatch.setattr(choose, "machine_is_busy", lambda: False)


@pytest.fixture
def measurements(monkeypatch):
    """Counts measurements of packs, which find packs of 2."""
    asked = []

    def measure(config, executor, **given):
        asked.append(config.name)
        return Measured(Packing(packed=True, size=2), "why not", lasting=True)

    monkeypatch.setattr(choose, "measure_packing", measure)
    return asked


def memory(config, devices=GPUS, trials=10):
    return Remembered(config, devices, trials=trials)


def test_alike_is_what_costs_the_same(gpt):
    memory(build(gpt)).put(FOUND)
    assert memory(build(gpt)).get(FoundPacking) == FOUND
    assert memory(build(gpt)).get(FoundWorkers) is None
    same = {"hparams__lr": 0.5, "training__seed": 3, "training__steps": 77, "name": "other"}
    for field, value in same.items():
        assert memory(build(gpt, **{field: value})).get(FoundPacking) == FOUND, field
    other = {"model__width": 32, "training__batch_size": 2, "hparams__optimizer": "adam", "hparams__clip": 1.0,
             "data__seq_len": 8, "training__precision": "bf16", "search__pruner": {"kind": "median"}}  # fmt: skip
    for field, value in other.items():
        constant = {"hparams__schedule": "constant"} if field == "search__pruner" else {}
        assert memory(build(gpt, **constant, **{field: value})).get(FoundPacking) is None, field
    assert memory(build(gpt), GPUS[:1]).get(FoundPacking) is None
    assert memory(build(gpt), trials=11).get(FoundPacking) is None


@pytest.mark.parametrize(
    "damage",
    [
        "", "{", "[]", '{"at": 1}', '{"at": "x", "found": {}}', "null",
        '{"at": NOW, "found": {}}', '{"at": NOW, "found": {"size": -4, "why": "", "seconds": 0.1}}',
        '{"at": NOW, "found": {"size": 8, "why": 3, "seconds": 0.1}}', '{"at": NOW, "found": null}',
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_not_known(gpt, damage):
    memory(build(gpt)).put(FOUND)
    [path] = (cache_folder() / "shapes").iterdir()
    path.write_text(damage.replace("NOW", str(json.loads(path.read_text())["at"])))
    assert memory(build(gpt)).get(FoundPacking) is None


@pytest.mark.parametrize("days", [-1, 8])
def test_a_week_is_long_enough(gpt, days):
    memory(build(gpt)).put(FOUND)
    [path] = (cache_folder() / "shapes").iterdir()
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"at": data["at"] - days * 24 * 3600}))
    assert memory(build(gpt)).get(FoundPacking) is None


def test_a_cache_that_cannot_be_written_is_done_without(gpt, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(remembered, "cache_folder", lambda: tmp_path / "file")
    memory(build(gpt)).put(FOUND)
    assert memory(build(gpt)).get(FoundPacking) is None


def test_a_second_sweep_does_not_measure(gpt, tmp_path, measurements):
    def seconds(count, threads):
        return 0.02 * count * count

    first = Machine(worker_devices(), seconds)
    sweep(build(gpt, search__trials=6), tmp_path, first, pack=None)
    assert len(measurements) == 1
    assert first.tried
    shape = [(len(first.at_last), first.at_last[0].threads)]
    assert shape != [(8, 1)]
    again = Machine(worker_devices(), seconds)
    sweep(build(gpt, search__trials=6, hparams__lr=0.5, name="again"), tmp_path, again, pack=None)
    assert len(measurements) == 1
    assert not again.tried
    assert [(len(again.at_last), again.at_last[0].threads)] == shape
    sweep(
        build(gpt, search__trials=6, model__width=32, name="wider"),
        tmp_path,
        Machine(worker_devices(), seconds),
        pack=None,
    )
    assert measurements[1:] == ["wider"]


def test_what_a_busy_machine_says_is_not_kept(gpt, tmp_path, measurements, monkeypatch):
    monkeypatch.setattr(choose, "machine_is_busy", lambda: True)
    for name in ("one", "two"):
        executor = Machine(worker_devices(), lambda count, threads: 1.0)
        sweep(build(gpt, search__trials=6, name=name), tmp_path, executor, pack=None)
    assert measurements == ["one", "two"]


@pytest.mark.parametrize("shape", [(64, 1), (8, 100)])
def test_workers_that_cannot_be_had_are_measured_again(gpt, tmp_path, measurements, shape):
    config = build(gpt, search__trials=6)
    memory(config, worker_devices(), 6).put(FoundWorkers(workers=shape[0], threads=shape[1], why="so it was"))
    executor = Machine(worker_devices(), lambda count, threads: 1.0)
    sweep(config, tmp_path, executor, pack=None)
    assert executor.tried
    assert len(executor.devices) <= 8


def test_what_failed_is_measured_again(gpt, tmp_path, monkeypatch):
    asked = []

    def measure(config, executor, **given):
        asked.append(config.name)
        return Measured(Packing(packed=False, size=1), "no memory for packs")

    monkeypatch.setattr(choose, "measure_packing", measure)
    for name in ("one", "two"):
        sweep(
            build(gpt, search__trials=6, name=name),
            tmp_path,
            Machine(worker_devices(), lambda count, threads: 1.0),
            pack=None,
        )
    assert asked == ["one", "two"]


def test_workers_as_remembered():
    cpus = worker_devices()
    assert [device.threads for device in arranged(cpus, workers=2, threads=4)] == [4, 4]
    assert arranged(cpus, workers=8, threads=1) == tuple(cpus)
    assert [device.name for device in arranged(GPUS, workers=4, threads=1)] == ["cuda:0", "cuda:1"] * 2
