"""Optimizers, one file each, and those that other packages add by entry point. Imports no torch."""

from __future__ import annotations

from mutransfer.optimizers.base import Optimizer
from mutransfer.registry import Registry

BUILT_IN = {
    "adamw": "mutransfer.optimizers.adamw:ADAMW",
    "adam": "mutransfer.optimizers.adam:ADAM",
    "sgd": "mutransfer.optimizers.sgd:SGD",
    "muon": "mutransfer.optimizers.muon:MUON",
    "lion": "mutransfer.optimizers.lion:LION",
}
OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", group="mutransfer.optimizers", built_in=BUILT_IN)
