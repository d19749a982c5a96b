"""Sizes of activations on one fixed batch, and their change since the first look."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mutransfer.errors import UsageError, nearest
from mutransfer.parametrization.wrappers import unwrapped
from mutransfer.verification.activations import record, rms
from mutransfer.verification.subject import call_model


class CoordinateProbe:
    """Looks into a model on one fixed batch, in eval mode and without changing it.

    Args:
        batch: what the model is called with: a tensor, a tuple of arguments, or a mapping of keyword arguments.
        modules: names of modules whose output is looked at, or patterns with `*` and `?`. The model itself is
            `(output)`, and the attention logits of a module are `NAME.attention_logits`. Default: all modules.
        every: number of steps between two looks, for the callbacks.

    Raises:
        UsageError: `every` is less than 1.
    """

    def __init__(self, batch: Any, *, modules: Collection[str] = ("*",), every: int = 1) -> None:
        if every < 1:
            raise UsageError(f"every must be >= 1, but got {every}")
        self.every = every
        self._batch, self._modules = batch, tuple(modules)
        self._first: dict[str, Tensor] = {}

    def look(self, model: nn.Module) -> dict[str, float]:
        """Root mean squares: `size/MODULE` of the output, `change/MODULE` of its change since the first look.

        In µP both stay alike at every width; docs/checks.md says what else may be expected.

        Raises:
            UsageError: a pattern of `modules` matches nothing.
        """
        inner = unwrapped(model)
        batch = _moved(self._batch, next(inner.parameters()).device)
        found = record(inner, lambda: call_model(inner, batch))
        for pattern in self._modules:
            if not fnmatch.filter(found, pattern):
                raise UsageError(f"modules: {pattern!r} matches no module; {nearest(pattern, found)}")
        seen = {name: one.values for name, one in found.items()
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in self._modules)}  # fmt: skip
        self._first = self._first or seen
        numbers = {f"size/{name}": rms(values) for name, values in seen.items()}
        for name, values in seen.items():
            if (before := self._first.get(name)) is not None and before.shape == values.shape:
                numbers[f"change/{name}"] = rms(values - before)
        return numbers


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: _moved(one, device) for name, one in batch.items()}
    return tuple(_moved(one, device) for one in batch) if isinstance(batch, tuple) else batch
