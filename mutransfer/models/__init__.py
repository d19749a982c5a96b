"""Model families, one per file; `config.models` registers them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import nn

from mutransfer.config.data import DataSpec
from mutransfer.config.models import MODELS
from mutransfer.errors import PlanError
from mutransfer.parametrization.options import options_of
from mutransfer.parametrization.roles import plan_for

if TYPE_CHECKING:
    from mutransfer.config.models import BaseModelSection
    from mutransfer.config.schema import RunConfig
    from mutransfer.parametrization.plan import Plan


def build_model(section: BaseModelSection, spec: DataSpec) -> nn.Module:
    """The plain module of a `model:` section for data of shape `spec`, on torch's current default device."""
    return cast(nn.Module, MODELS.implementation(section)(section, spec))


def plan_of(config: RunConfig) -> Plan:
    """The plan of a config's model, made without allocating its weights.

    Raises:
        PlanError: the model cannot be built here.
    """
    section, spec = config.model, config.data.spec
    if not config.trainer.inspectable:
        raise PlanError(f"{config.name}: model kind {section.kind} has no plan: its parameters are not known here")
    return plan_for(
        lambda width: build_model(section.at_width(width), spec),
        width=section.width,
        base_width=section.base_width,
        optimizer=config.hparams.record,
        parametrization=config.parametrization,
        zero_readout=section.zeroes_readout,
        finite_sizes=spec.sizes,
        options=options_of(config),
    )
