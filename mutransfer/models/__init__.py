"""Model families, one per file; `config.models` registers them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from torch import nn

from mutransfer.config.data import DataSpec
from mutransfer.config.models import CommandSection
from mutransfer.errors import PlanError
from mutransfer.parametrization.options import options_of
from mutransfer.parametrization.roles import plan_for

if TYPE_CHECKING:
    from mutransfer.config.models import ModelSection
    from mutransfer.config.schema import RunConfig
    from mutransfer.parametrization.plan import Plan


def build_model(section: ModelSection, spec: DataSpec) -> nn.Module:
    """The plain module of a `model:` section for data of shape `spec`, on torch's current default device."""
    home, _, name = section.implementation.partition(":")
    return cast(nn.Module, getattr(importlib.import_module(home), name)(section, spec))


def plan_of(config: RunConfig) -> Plan:
    """The plan of a config's model, made without allocating its weights.

    Raises:
        PlanError: a command trains it, and its parameters are not known here.
    """
    section, spec = config.model, config.data.spec
    if isinstance(section, CommandSection):
        raise PlanError(f"{config.name}: model kind command has no plan; its parameters are the command's own")
    return plan_for(
        lambda width: build_model(section.at_width(width), spec),
        width=section.width,
        base_width=section.base_width,
        optimizer=config.hparams.record,
        parametrization=config.parametrization,
        zero_readout=section.zero_readout is not False,
        finite_sizes=spec.sizes,
        options=options_of(config),
    )
