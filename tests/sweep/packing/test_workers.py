"""How many workers with how many threads: what is tried, what is chosen, and that a study keeps to it."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from mutransfer.errors import Interrupted
from mutransfer.executors import devices as machine
from mutransfer.executors.base import JobFailed
from mutransfer.executors.devices import Device, worker_devices
from mutransfer.sweep.packing import workers
from mutransfer.sweep.packing.measure import ALONE, Packing
from mutransfer.sweep.packing.workers import arrange_workers, arrangements, in_words, time_step
from tests.conftest import build
from tests.sweep.test_coordinator import Scripted, fake, losses, sweep

PACKS = Packing(packed=True, size=8)


class Machine(Scripted):
    """Workers whose step takes `seconds(workers, threads)`; trials are not trained."""

    def __init__(self, devices, seconds):
        super().__init__(fake)
        self.devices, self._seconds, self.tried = tuple(devices), seconds, []
        self.at_last = None

    @property
    def capacity(self):
        return len(self.devices)

    @capacity.setter
    def capacity(self, value):
        pass

    def arrange(self, devices, *, spare=False):
        self.devices = tuple(devices)
        self.at_last = None if spare else self.devices

    def submit(self, job):
        if not job.target.endswith("workers:time_step"):
            return super().submit(job)
        shape, future = (len(self.devices), self.devices[0].threads), Future()
        self.tried.append(shape)
        try:
            future.set_result(self._seconds(*shape))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch):
    monkeypatch.setattr(machine, "_gpus", lambda threads: [])
    for module in (machine, workers):
        monkeypatch.setattr(module, "cores", lambda: 8)


def shapes(found):
    return [(len(devices), devices[0].threads) for devices in found]


def test_what_is_tried():
    every = worker_devices()
    assert shapes(arrangements(every, ALONE, 100)) == [(4, 2), (2, 4), (1, 8)]
    assert shapes(arrangements(every, ALONE, 3)) == [(3, 2), (2, 4), (1, 8)]
    assert shapes(arrangements(every, ALONE, 1)) == [(1, 2), (1, 4), (1, 8)]
    assert shapes(arrangements(every, PACKS, 20)) == [(3, 2), (2, 4), (1, 8)]
    assert shapes(arrangements(worker_devices(threads=4), ALONE, 100)) == [(1, 8)]


def test_gpus_are_shared_only_where_packs_do_not_fill_them():
    gpus = [Device(f"cuda:{index}", "cuda", 1) for index in range(2)]
    assert [len(found) for found in arrangements(gpus, ALONE, 100)] == [4, 8]
    assert [device.name for device in next(arrangements(gpus, ALONE, 100))] == ["cuda:0", "cuda:1"] * 2
    assert [len(found) for found in arrangements(gpus, ALONE, 5)] == [4]
    assert not list(arrangements(gpus, PACKS, 100))
    assert not list(arrangements([Device("mps", "mps", 1)], ALONE, 100))


@pytest.mark.parametrize(
    ("seconds", "trials", "chosen"),
    [
        (lambda count, threads: 1.0, 100, (8, 1)),  # threads do nothing
        (lambda count, threads: 0.05 * count, 100, (8, 1)),  # all wait for one memory: any arrangement is as good
        (lambda count, threads: 0.02 * count * count, 100, (1, 8)),  # they push one another out of the cache
        (lambda count, threads: 1.0 / threads**0.9, 100, (8, 1)),  # threads cost a little
        (lambda count, threads: 1.0 / threads**0.9, 3, (1, 8)),  # but idle cores cost more
        (lambda count, threads: 1.0 / min(threads, 2), 1, (1, 2)),
    ],
)
def test_the_fastest_is_chosen(gpt, seconds, trials, chosen):
    executor = Machine(worker_devices(), seconds)
    why = arrange_workers(build(gpt), executor, ALONE, trials=trials)
    assert shapes([executor.at_last]) == [chosen]
    assert bool(why) == (chosen != (8, 1))
    assert "× as fast as 8 worker(s) with 1 thread(s) each" in why or not why


def test_short_steps_are_left_alone(gpt):
    executor = Machine(worker_devices(), lambda count, threads: 0.005 * count * count)
    assert not arrange_workers(build(gpt), executor, ALONE, trials=100, seconds=0.009)
    assert not executor.tried
    assert arrange_workers(build(gpt), executor, ALONE, trials=100, seconds=0.32)
    assert executor.tried[0] == (4, 2)  # what is known is not measured again


def test_a_failure_leaves_things_as_they_were(gpt):
    def seconds(count, threads):
        if threads == 4:
            raise JobFailed("no", "trace")
        return 0.1 * count

    executor = Machine(worker_devices(), seconds)
    why = arrange_workers(build(gpt), executor, ALONE, trials=1000)
    assert (4, 2) in executor.tried
    assert shapes([executor.at_last]) == [(8, 1)]
    assert why is None
    with pytest.raises(Interrupted):
        arrange_workers(build(gpt), executor, ALONE, trials=1000, should_stop=lambda: True)


def test_a_study_keeps_its_threads(gpt, tmp_path):
    """Their number shows in the last bits of a loss."""
    config = build(gpt, search__trials=6)
    executor = Machine(worker_devices(), lambda count, threads: 0.02 * count * count)
    first = sweep(config, tmp_path, executor)
    assert shapes([executor.at_last]) == [(1, 8)]
    again = Machine(worker_devices(), lambda count, threads: 1.0)
    assert losses(sweep(config, tmp_path, again)) == losses(first)
    assert not again.tried
    assert shapes([again.at_last]) == [(1, 8)]
    asked = Machine(worker_devices(workers=2), lambda count, threads: 1.0)
    sweep(config, tmp_path, asked, arrange=False)
    assert shapes([asked.at_last]) == [(2, 8)]


def test_what_is_asked_for_is_not_measured(gpt, tmp_path):
    for name, config, more in (
        ("threads", build(gpt, search__threads=2), {}),
        ("workers", build(gpt), {"arrange": False}),
    ):
        executor = Machine(worker_devices(), lambda count, threads: 0.02 * count * count)
        sweep(config, tmp_path / name, executor, **more)
        assert not executor.tried


@pytest.mark.parametrize("packed", [True, False])
def test_a_step_is_timed(mlp, packed):
    one = time_step(Device("cpu", "cpu", 1), config=build(mlp).resolved(), packed=packed, size=8 if packed else 1)
    assert 0 < one < 1


def test_words():
    assert in_words(worker_devices()) == "8 worker(s) with 1 thread(s) each"
    assert in_words([Device("cuda:0", "cuda", 1)] * 2) == "2 worker(s) on 1 GPU(s)"
