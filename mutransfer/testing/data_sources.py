"""What every data source has to keep. Inherit, and give the fixtures `section` and `change`.

class TestMySource(DataSourceContract):
    @pytest.fixture
    def section(self): return MySection(kind="mine", ...)   # with data that exists

    @pytest.fixture
    def change(self): return lambda: ...                    # changes that data in place
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from mutransfer.config.data import ClassSpec, PairSpec, TokenSpec
from mutransfer.data import load_data
from mutransfer.data.dataset import Batch, Dataset
from mutransfer.training.loss import inputs_of

BATCH = 4


def fresh(section: Any) -> Dataset:
    """The data as a new process would open it."""
    load_data.cache_clear()
    return load_data(section)


def same(one: Batch, other: Batch) -> bool:
    arrays = zip((*inputs_of(one), one[1]), (*inputs_of(other), other[1]), strict=True)
    return all(np.array_equal(a, b) for a, b in arrays)


def rows(batches: list[Batch]) -> Counter[bytes]:
    """How often each example or window occurs, as bytes."""
    return Counter(row.tobytes() for batch in batches for row in inputs_of(batch)[0])


class DataSourceContract:
    def test_a_batch_is_a_function_of_seed_and_step_in_whatever_order_asked(self, section: Any) -> None:
        wanted = [(seed, step) for seed in (0, 7) for step in (0, 1, 5, 40)]
        once, again = fresh(section), fresh(section)
        first = {key: once.batch(key[1], batch_size=BATCH, seed=key[0]) for key in wanted}
        for seed, step in reversed(wanted):
            assert same(first[seed, step], again.batch(step, batch_size=BATCH, seed=seed)), (seed, step)

    def test_another_seed_or_step_gives_another_batch(self, section: Any) -> None:
        data = fresh(section)
        reference = data.batch(3, batch_size=BATCH, seed=0)
        for seed, step in ((0, 4), (1, 3), (1, 2), (3, 0)):
            assert not same(reference, data.batch(step, batch_size=BATCH, seed=seed)), (seed, step)

    def test_batches_have_the_shape_and_type_that_the_section_promises(self, section: Any) -> None:
        data, spec = fresh(section), section.spec
        parts = [data.batch(0, batch_size=BATCH, seed=0), *data.validation(batch_size=BATCH, batches=1)]
        assert len(parts) == 2
        inputs: Any
        for inputs, targets in parts:
            size = len(targets)
            assert 1 <= size <= BATCH
            assert targets.dtype == np.int64
            if isinstance(spec, TokenSpec):
                assert (inputs.shape, targets.shape) == ((size, spec.seq_len), (size, spec.seq_len))
                assert inputs.dtype == np.int64
                assert inputs.min() >= 0
                assert max(inputs.max(), targets.max()) < spec.vocab_size
            elif isinstance(spec, PairSpec):
                source, read = inputs
                assert (source.shape, read.shape) == ((size, spec.source_len), (size, spec.target_len))
                assert targets.shape == read.shape
                assert source.dtype == read.dtype == np.int64
                assert min(source.min(), read.min()) >= 0
                assert source.max() < spec.source_vocab
                assert max(read.max(), targets.max()) < spec.target_vocab
            else:
                assert isinstance(spec, ClassSpec)
                assert (inputs.shape, targets.shape) == ((size, *spec.shape), (size,))
                assert inputs.dtype == np.float32
                assert np.isfinite(inputs).all()
                assert targets.min() >= 0
                assert targets.max() < spec.classes
        assert len(parts[0][1]) == BATCH

    def test_validation_is_always_the_same_and_never_more_than_asked_for(self, section: Any) -> None:
        data = fresh(section)
        first = list(data.validation(batch_size=BATCH, batches=2))
        data.batch(9, batch_size=BATCH, seed=9)
        for again in (data, fresh(section)):
            second = list(again.validation(batch_size=BATCH, batches=2))
            assert len(first) == len(second)
            assert all(same(a, b) for a, b in zip(first, second, strict=True))
        assert 1 <= len(first) <= 2
        assert len(list(data.validation(batch_size=BATCH, batches=1))) == 1

    def test_the_fingerprint_stays_with_the_data_and_changes_with_it(
        self, section: Any, change: Callable[[], None]
    ) -> None:
        before = fresh(section).fingerprint
        assert fresh(section).fingerprint == before
        change()
        assert fresh(section).fingerprint != before


class TokenSourceContract(DataSourceContract):
    """And of token sequences."""

    def test_token_targets_are_one_ahead_of_their_inputs(self, section: Any) -> None:
        data = fresh(section)
        inputs: Any
        for inputs, targets in [data.batch(0, batch_size=BATCH, seed=0), *data.validation(batch_size=2, batches=2)]:
            assert np.array_equal(inputs[:, 1:], targets[:, :-1])


def check_epochs(section: Any) -> None:
    """Every training example once per epoch in a new order, none of them in the validation part.

    Works on labelled data whose examples all differ.
    """
    data = fresh(section)
    held_out = rows(list(data.validation(batch_size=1, batches=10**6)))
    assert set(held_out.values()) == {1}
    # One example per step: an epoch ends where the first example comes again.
    first = [data.batch(step, batch_size=1, seed=0) for step in range(2 * len(held_out) * 10)]
    seen = list(rows(first))
    size = len(seen)
    epochs = [rows(first[begin : begin + size]) for begin in (0, size)]
    assert epochs[0] == Counter(seen)
    assert epochs[1] == epochs[0]
    order = [inputs_of(batch)[0].tobytes() for batch in first]
    assert order[:size] != order[size : 2 * size]
    assert not set(seen) & set(held_out)
    assert abs(len(held_out) - section.validation_fraction * (size + len(held_out))) <= 0.5
    # A batch that crosses the end of an epoch is the end of the one and the beginning of the next.
    crossing = rows([data.batch(1, batch_size=size - 1, seed=0)])
    assert crossing == rows(first[size - 1 : 2 * size - 2])
