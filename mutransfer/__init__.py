"""Tune a narrow proxy in the maximal update parametrization, train the wide target (µTransfer).

The public names are loaded on first use: importing the package imports neither torch nor optuna, so that
the command line answers at once.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mutransfer.config.load import load_config as load_config
    from mutransfer.config.schema import RunConfig as RunConfig
    from mutransfer.parametrization.apply import initialize as initialize
    from mutransfer.parametrization.apply import parameter_groups as parameter_groups
    from mutransfer.parametrization.apply import set_multipliers as set_multipliers
    from mutransfer.parametrization.facts import ModelFacts as ModelFacts
    from mutransfer.parametrization.plan import Plan as Plan
    from mutransfer.parametrization.roles import plan_for as plan_for
    from mutransfer.parametrization.rules import attention_scale as attention_scale
    from mutransfer.sweep.coordinator import run_sweep as run_sweep
    from mutransfer.training.run import train as train
    from mutransfer.transfer.target import make_target as make_target

__version__ = "0.1.0"

_HOMES = {
    "load_config": "mutransfer.config.load",
    "RunConfig": "mutransfer.config.schema",
    "initialize": "mutransfer.parametrization.apply",
    "parameter_groups": "mutransfer.parametrization.apply",
    "set_multipliers": "mutransfer.parametrization.apply",
    "ModelFacts": "mutransfer.parametrization.facts",
    "Plan": "mutransfer.parametrization.plan",
    "plan_for": "mutransfer.parametrization.roles",
    "attention_scale": "mutransfer.parametrization.rules",
    "run_sweep": "mutransfer.sweep.coordinator",
    "train": "mutransfer.training.run",
    "make_target": "mutransfer.transfer.target",
}

__all__ = [
    "ModelFacts",
    "Plan",
    "RunConfig",
    "__version__",
    "attention_scale",
    "initialize",
    "load_config",
    "make_target",
    "parameter_groups",
    "plan_for",
    "run_sweep",
    "set_multipliers",
    "train",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'mutransfer' has no attribute {name!r}")
    return pkgutil.resolve_name(f"{home}:{name}")


def __dir__() -> list[str]:
    return __all__
