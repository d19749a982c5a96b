"""Data from a factory of the user's own: a `Dataset`, or a pair of arrays that is made one."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from mutransfer.config.data import DataModuleSection
from mutransfer.config.factory import call_factory
from mutransfer.data.dataset import Array, Batch, ClassDataset, Dataset, Epochs, fingerprint
from mutransfer.errors import DataError


def load(section: DataModuleSection) -> Dataset:
    """Call the factory.

    Raises:
        ConfigError: there is no such factory, it does not take an argument of the section, or it raised.
        DataError: what it returned is no data.
    """
    own = type(section).model_fields
    offers = {"validation_fraction": section.validation_fraction}
    found = call_factory("data.factory", section.factory, section.model_extra or {}, offers, own)
    if all(hasattr(found, name) for name in ("batch", "validation", "fingerprint")):
        return cast(Dataset, found)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise DataError(
            f"data.factory: {section.factory} returned a {type(found).__name__}; it has to return a pair of arrays "
            "(inputs, targets), or an object with batch, validation and fingerprint"
        )
    inputs, targets = found
    several = inputs if isinstance(inputs, tuple) else (inputs,)
    return PairDataset(
        tuple(_array(one, section.factory) for one in several),
        _array(targets, section.factory),
        validation_fraction=section.validation_fraction,
        label=f"data.factory: {section.factory}",
    )


class PairDataset(ClassDataset):
    """Inputs (N, …) and targets (N, …) as they are: in a new order each epoch, a share of them held out."""

    def __init__(self, inputs: tuple[Array, ...], targets: Array, *, validation_fraction: float, label: str) -> None:
        size = len(targets)
        if any(len(one) != size for one in inputs):
            lengths = ", ".join(str(len(one)) for one in (*inputs, targets))
            raise DataError(f"{label}: inputs and targets differ in how many examples they have: {lengths}")
        held_out = round(size * validation_fraction)
        if held_out < 1 or held_out >= size:
            raise DataError(f"{label}: too small to split: {size} examples")
        order = np.random.default_rng(0).permutation(size)
        self._train, self._held_out = order[held_out:], order[:held_out]
        self._inputs, self._targets = inputs, targets
        self._epochs = Epochs(len(self._train))
        self._fingerprint = fingerprint(*inputs, targets)

    def _examples_at(self, rows: Array) -> Batch:
        chosen = tuple(one[rows] for one in self._inputs)
        return chosen if len(chosen) > 1 else chosen[0], self._targets[rows]


def _array(value: Any, label: str) -> Array:
    """An array in the types that models take: float32 and int64."""
    array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    if array.ndim == 0 or array.dtype.kind not in "iufb":
        raise DataError(f"data.factory: {label}: arrays of numbers are needed, but one is {array.dtype} {array.shape}")
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
