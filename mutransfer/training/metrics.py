"""Metrics of a trained model beside its loss. A model's section registers its own by name."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import nn

from mutransfer.config.schema import RunConfig
from mutransfer.data.dataset import Dataset

Alive = Callable[[], None]
"""Called after every part of a measurement, since a silent worker is ended after some time."""


def unwatched() -> None:
    """The `Alive` of a measurement that nobody waits for."""


class Measure(Protocol):
    """One metric."""

    def require(self) -> None:
        """Raises `DataError` where something that it needs is not installed."""

    def __call__(
        self, config: RunConfig, model: nn.Module, data: Dataset, device: torch.device, *, alive: Alive = unwatched
    ) -> float:
        """Measure `model`, in eval mode and without gradients."""


def measures_of(config: RunConfig) -> dict[str, Measure]:
    """The metrics that a config asks for, each ready to be called.

    Raises `DataError` if a package that one needs is not installed.
    """
    known, asked = config.model.metrics, config.evaluation.metrics
    found = {}
    for name in known if asked is None else asked:
        measure = cast(Measure, pkgutil.resolve_name(known[name]))
        measure.require()
        found[name] = measure
    return found


def measure(
    config: RunConfig, model: nn.Module, data: Dataset, device: torch.device, *, alive: Alive
) -> dict[str, float]:
    """Every metric that the config asks for."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return {name: one(config, model, data, device, alive=alive) for name, one in measures_of(config).items()}
    finally:
        model.train(was_training)
