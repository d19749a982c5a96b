"""Data from a user's own factory: batches, epochs and what is held out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mutransfer.config.data import DataModuleSection
from mutransfer.data.dataset import Dataset
from mutransfer.errors import DataError
from mutransfer.testing.data_sources import fresh, same

CODE = """\
import numpy as np
import torch

def load(rows=40):
    numbers = np.arange(rows)
    return (np.stack([numbers, -numbers], axis=1).astype(np.float32), numbers), numbers % 3

class Own:
    fingerprint = "own"

    def __init__(self, fails, parts=1):
        self.fails, self.parts = fails, parts

    def batch(self, step, *, batch_size, seed):
        if step >= self.fails:
            raise KeyError("corpus")
        return torch.zeros(batch_size, 2, dtype=torch.float64), np.zeros(batch_size, dtype=np.int32)

    def validation(self, *, batch_size, batches):
        return (self.batch(0, batch_size=batch_size, seed=0) for _ in range(self.parts))

def ragged():
    return [[1], [2, 3]], [1, 2]
"""


@pytest.fixture
def section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., DataModuleSection]]:
    """Sections of data that `CODE` in the current folder makes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("own_arrays.py").write_text(CODE, encoding="utf-8")
    yield lambda **fields: DataModuleSection.model_validate(
        {"kind": "module", "factory": "own_arrays:load", "validation_fraction": 0.25, **fields}
    )
    sys.modules.pop("own_arrays", None)


def epoch(data: Dataset, number: int) -> list[int]:
    batches = [data.batch(step, batch_size=3, seed=0) for step in range(10 * number, 10 * (number + 1))]
    return [int(one) for inputs, _ in batches for one in inputs[1]]


def test_each_epoch_has_every_training_example_once_in_a_new_order(section: Callable[..., DataModuleSection]) -> None:
    data = fresh(section())
    first, second = epoch(data, 0), epoch(data, 1)
    held_out = [int(one) for inputs, _ in data.validation(batch_size=4, batches=99) for one in inputs[1]]
    assert first != second
    assert sorted(first) == sorted(second) == sorted(set(range(40)) - set(held_out))
    assert len(held_out) == 10


def test_batches_are_a_function_of_seed_and_step_and_keep_rows_together(
    section: Callable[..., DataModuleSection],
) -> None:
    data, again = fresh(section()), fresh(section())
    assert same(data.batch(30, batch_size=4, seed=1), again.batch(30, batch_size=4, seed=1))
    assert not same(data.batch(30, batch_size=4, seed=1), data.batch(30, batch_size=4, seed=2))
    (pairs, numbers), targets = data.batch(0, batch_size=4, seed=0)
    assert pairs.dtype == np.float32
    assert targets.dtype == np.int64
    assert np.array_equal(pairs[:, 0], numbers)
    assert np.array_equal(targets, numbers % 3)
    assert data.fingerprint == again.fingerprint != fresh(section(rows=41)).fingerprint


def test_an_object_of_ones_own_may_give_tensors_of_any_kind_of_number(
    section: Callable[..., DataModuleSection],
) -> None:
    data = fresh(section(factory="own_arrays:Own", fails=9))
    for inputs, targets in (data.batch(0, batch_size=4, seed=0), *data.validation(batch_size=4, batches=1)):
        assert isinstance(inputs, np.ndarray)
        assert inputs.dtype == np.float32
        assert targets.dtype == np.int64
    assert data.fingerprint == "own"


def test_what_its_code_does_wrong_while_it_trains_is_one_message(section: Callable[..., DataModuleSection]) -> None:
    data = fresh(section(factory="own_arrays:Own", fails=3))
    data.batch(2, batch_size=4, seed=0)
    with pytest.raises(DataError, match=r"^data\.factory: own_arrays:Own: batch raised KeyError: 'corpus' \(.*:16\)$"):
        data.batch(3, batch_size=4, seed=0)
    with pytest.raises(DataError, match="validation gave no batch; it must give at least one"):
        list(fresh(section(factory="own_arrays:Own", fails=3, parts=0)).validation(batch_size=4, batches=1))
    with pytest.raises(DataError, match=r"^data\.factory: own_arrays:Own: batch gave a batch without examples"):
        fresh(section(factory="own_arrays:Own", fails=3)).batch(0, batch_size=0, seed=0)
    with pytest.raises(DataError, match=r"^data\.factory: own_arrays:ragged: must give arrays of numbers"):
        fresh(section(factory="own_arrays:ragged"))
