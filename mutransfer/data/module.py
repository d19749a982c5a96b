"""Data from the user's own factory: a `Dataset`, or a pair of arrays."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from mutransfer.config.data import DataModuleSection
from mutransfer.config.factory import call_factory, said
from mutransfer.data.dataset import Array, Batch, Dataset, ExampleDataset, fingerprint, notes_of, split_rows
from mutransfer.errors import DataError


def load(section: DataModuleSection) -> Dataset:
    """Call the factory.

    Raises:
        ConfigError: the factory does not exist, does not take an argument of the section, or raised an error.
        DataError: the factory returned something else.
    """
    own = type(section).model_fields
    offers = {"validation_fraction": section.validation_fraction}
    label = f"data.factory: {section.factory}"
    found = call_factory("data.factory", section.factory, section.model_extra or {}, offers, own)
    if all(hasattr(found, name) for name in ("batch", "validation", "fingerprint")):
        return OwnDataset(cast(Dataset, found), label)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise DataError(
            f"{label} returned a {type(found).__name__}; it must return a pair of arrays "
            "(inputs, targets), or an object with batch, validation and fingerprint"
        )
    inputs, targets = _arrays(found, label)
    for array in (*inputs, targets):
        _require_finite(array, label)
    if len(targets) > 1 and (targets == targets[0]).all():
        raise DataError(f"{label}: all {len(targets)} targets are {targets[0]}, so there is nothing to learn")
    return ArrayDataset(inputs, targets, validation_fraction=section.validation_fraction, label=label)


class OwnDataset:
    """A `Dataset` from a factory. Its errors and wrong values become a `DataError` that names the factory."""

    def __init__(self, own: Dataset, label: str) -> None:
        self._own, self._label = own, label
        self.notes = notes_of(own)

    @property
    def fingerprint(self) -> str:  # noqa: D102 - see `Dataset`
        with self._blamed("fingerprint"):
            return str(self._own.fingerprint)

    def batch(self, step: int, *, batch_size: int, seed: int) -> Batch:  # noqa: D102 - see `Dataset`
        with self._blamed("batch"):
            found: Any = self._own.batch(step, batch_size=batch_size, seed=seed)
        return self._checked(found, "batch")

    def validation(self, *, batch_size: int, batches: int) -> Iterator[Batch]:  # noqa: D102 - see `Dataset`
        with self._blamed("validation"):
            found = iter(self._own.validation(batch_size=batch_size, batches=batches))
        for number in itertools.count():
            with self._blamed("validation"):
                one: Any = next(found, None)
            if one is None:
                if not number:
                    raise DataError(f"{self._label}: validation gave no batch; it must give at least one")
                return
            yield self._checked(one, "validation")

    def _checked(self, found: Any, where: str) -> Batch:
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise DataError(
                f"{self._label}: {where} gave a {type(found).__name__}; it must give a pair (inputs, targets)"
            )
        inputs, targets = _arrays(found, f"{self._label}: {where}")
        if not len(targets):
            raise DataError(f"{self._label}: {where} gave a batch without examples; every batch must have at least one")
        return inputs if isinstance(found[0], tuple) else inputs[0], targets

    @contextmanager
    def _blamed(self, where: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise DataError(f"{self._label}: {where} raised {said(error)}") from error


class ArrayDataset(ExampleDataset):
    """Inputs (N, …) and targets (N, …), not normalised. A random share is held out for validation."""

    def __init__(self, inputs: tuple[Array, ...], targets: Array, *, validation_fraction: float, label: str) -> None:
        size = len(targets)
        if any(len(one) != size for one in inputs):
            lengths = ", ".join(str(len(one)) for one in (*inputs, targets))
            raise DataError(f"{label}: inputs and targets must have the same number of examples, but have {lengths}")
        super().__init__(*split_rows(size, validation_fraction, label), fingerprint(*inputs, targets))
        self._inputs, self.targets = inputs, targets

    def _examples_at(self, rows: Array) -> Batch:
        chosen = tuple(one[rows] for one in self._inputs)
        return chosen if len(chosen) > 1 else chosen[0], self.targets[rows]


def _arrays(pair: Sequence[Any], label: str) -> tuple[tuple[Array, ...], Array]:
    inputs, targets = pair
    several = inputs if isinstance(inputs, tuple) else (inputs,)
    return tuple(_array(one, label) for one in several), _array(targets, label)


def _require_finite(array: Array, label: str) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        row, *place = bad[0].tolist()
        inside = f", position {', '.join(map(str, place))}" if place else ""
        raise DataError(
            f"{label}: row {row}{inside} is {array[tuple(bad[0])]}; training needs finite numbers, and {len(bad)} "
            "values are not. Fill them in, or leave these rows out"
        )


def _array(value: Any, label: str) -> Array:
    """An array of the types that models take: float32 or int64."""
    try:
        array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{label}: must give arrays of numbers, but a value cannot be converted to an array: {error}"
        ) from None
    if array.ndim == 0 or array.dtype.kind not in "iufb":
        raise DataError(
            f"{label}: must give arrays of numbers, but one has dtype {array.dtype} and shape {array.shape}"
        )
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64, copy=False)
