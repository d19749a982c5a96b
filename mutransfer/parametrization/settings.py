"""From a plan and hparams to every number of every parameter and module. Imports no torch.

The one reader of both: initialiser, optimizer groups, forward multipliers, audit, exports and tests take their numbers
from here and compute none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mutransfer.config.hparams import Hparams
from mutransfer.optimizers.base import OptimizerFamily
from mutransfer.parametrization import rules
from mutransfer.parametrization.plan import ModuleScaling, Plan, Scaling, layer_of


@dataclass(frozen=True)
class OptimizerSettings:
    """What the optimizer is given for one parameter; equal ones share a group."""

    family: OptimizerFamily
    lr: float
    """Peak learning rate."""
    weight_decay: float
    """As torch's optimizers take it: multiplied by the lr where it is decoupled."""
    eps: float | None
    """None where the optimizer has no ε."""
    betas: tuple[float, float] | None
    """Both decays of Adam and Lion; None where the optimizer has none."""
    momentum: float | None
    """Momentum of SGD and Muon; None where the optimizer has none."""


@dataclass(frozen=True)
class ModuleSettings:
    """What the input and the output of one module are multiplied by."""

    input_multiplier: float = 1.0
    output_multiplier: float = 1.0


@dataclass(frozen=True)
class Settings:
    """Every number of one model."""

    init_std: Mapping[str, float | None]
    """Std of the normal draw, by parameter; 0 for zeros, None where the values stay as the module made them."""
    optimizer: Mapping[str, OptimizerSettings]
    """By parameter; the names of a tied one share the settings of its owner."""
    modules: Mapping[str, ModuleSettings]
    """By module; modules that are not named are not multiplied."""
    attention: Mapping[str, float]
    """What q·k is multiplied by, by attention module."""
    residual: Mapping[str, float]
    """What a residual block's branches are multiplied by, by block."""
    relative: Mapping[str, float]
    """What a bias of relative positions is multiplied by, by module."""

    def module_of(self, parameter: str) -> ModuleSettings:
        """The multipliers of the module that owns a parameter."""
        return self.modules.get(layer_of(parameter), ModuleSettings())


def settings(plan: Plan, hparams: Hparams, *, scaled: bool = True) -> Settings:
    """Join what width does with values at base width.

    Args:
        plan: of one model at one width.
        hparams: values at base width.
        scaled: False for the numbers at base size, before any rule.
    """
    entrances = plan.entrances
    own = {
        name: _optimizer(plan, name, one, hparams, enters=name in entrances, scaled=scaled)
        for name, one in plan.parameters.items()
        if one.tied_to is None
    }
    return Settings(
        init_std={name: _init_std(one, hparams, scaled=scaled) for name, one in plan.parameters.items()},
        optimizer={name: own[one.tied_to or name] for name, one in plan.parameters.items()},
        modules={name: _module(plan, one, hparams, scaled=scaled) for name, one in plan.modules.items()},
        attention={
            name: scale / hparams.attention_temperature
            for name, scale in (plan.attention if scaled else plan.base_attention).items()
        },
        residual={name: scale if scaled else 1.0 for name, scale in plan.residual.items()},
        relative=dict.fromkeys(plan.relative, hparams.relative_scale),
    )


def _init_std(one: Scaling, hparams: Hparams, *, scaled: bool) -> float | None:
    std = one.init_std if scaled else one.base_init_std
    return None if std is None else std * hparams.init_scale


def _module(plan: Plan, one: ModuleScaling, hparams: Hparams, *, scaled: bool) -> ModuleSettings:
    output = one.gain
    if one.hparam == "temperature":
        output /= hparams.temperature
    elif one.hparam is not None:
        output *= getattr(hparams, one.hparam)
    forward = plan.parameters[one.weight].forward if scaled and one.weight is not None else 1.0
    return ModuleSettings(forward, output)


def _optimizer(
    plan: Plan, name: str, one: Scaling, hparams: Hparams, *, enters: bool, scaled: bool
) -> OptimizerSettings:
    record = hparams.record
    trainer = record.trainer(one.family)
    lr: float = hparams.lr if trainer is record else hparams.resolved("adam_lr")
    lr *= hparams.embedding_lr if enters else 1.0
    lr *= hparams.bias_lr if is_bias(name, one) else hparams.norm_gain_lr if is_norm_gain(name, one) else 1.0
    decay, eps = hparams.weight_decay if one.weight_decay else 0.0, hparams.resolved("eps")
    if scaled:
        lr *= one.lr
        decay *= one.weight_decay
        eps = None if eps is None else eps * one.eps
    if plan.options.weight_decay == "independent":  # torch multiplies by the lr: take it out beforehand
        decay = hparams.weight_decay / lr if one.weight_decay else 0.0
    if scaled and plan.parametrization != "sp":
        shape = rules.torch_shape(one.family, one.shape, one.m_in, one.m_out)
        lr, decay = lr * shape, decay / shape
    reads = trainer.own_hparams
    return OptimizerSettings(
        family=one.family,
        lr=lr,
        weight_decay=decay,
        eps=eps if "eps" in reads else None,
        betas=(hparams.resolved("beta1"), hparams.resolved("beta2")) if "beta1" in reads else None,
        momentum=hparams.resolved("momentum") if "momentum" in reads else None,
    )


def is_bias(name: str, scaling: Scaling) -> bool:
    """Whether a parameter is added to what a layer or a norm gives."""
    return scaling.role in ("vector", "scalar") and name.rpartition(".")[2].endswith("bias")


def is_norm_gain(name: str, scaling: Scaling) -> bool:
    """Whether a parameter multiplies activations one by one: not a bias, and left as its module made it, at one."""
    return scaling.role == "vector" and scaling.base_init_std is None and not is_bias(name, scaling)
