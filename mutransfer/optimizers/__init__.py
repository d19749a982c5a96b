"""Optimizers, one file each, and those that other packages add by entry point. Imports no torch."""

from __future__ import annotations

from typing import Any

from mutransfer.optimizers.base import Optimizer
from mutransfer.registry import Registry


def _require(name: str, found: Any) -> None:
    if not isinstance(found, Optimizer):
        raise TypeError("it must be an instance of mutransfer.optimizers.base.Optimizer")


BUILT_IN = {
    "adamw": "mutransfer.optimizers.adamw:ADAMW",
    "adam": "mutransfer.optimizers.adam:ADAM",
    "sgd": "mutransfer.optimizers.sgd:SGD",
    "muon": "mutransfer.optimizers.muon:MUON",
    "lion": "mutransfer.optimizers.lion:LION",
}
OPTIMIZERS: Registry[Optimizer] = Registry(
    "optimizer", group="mutransfer.optimizers", require=_require, built_in=BUILT_IN
)
