"""The plan: `{parameter name: scaling}` for one model at one width, as plain data. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mutransfer.errors import PlanError
from mutransfer.parametrization import rules
from mutransfer.parametrization.rules import OptimizerFamily, Options, Parametrization, Role


@dataclass(frozen=True)
class ParameterShape:
    """What shapes say of one parameter: the input of the plan."""

    name: str
    shape: tuple[int, ...]
    role: Role
    fan_in: int
    fan_out: int
    base_fan_in: int
    base_fan_out: int
    base_init_std: float | None
    """Std at base width and init_scale 1; 0 for zeros; None for parameters left as their module made them."""
    decays: bool
    """Whether weight decay applies: weight matrices yes, biases and gains no."""
    multiplies: bool
    """Whether activations are multiplied by it as by a matrix; not so lookup tables, biases and gains."""
    tied_to: str | None = None
    """Name of the parameter whose tensor this one shares."""
    in_branch: bool = False
    """Whether it belongs to a residual block whose branches a depth rule scales."""

    @property
    def looks_up(self) -> bool:
        """Whether it is a lookup table (an embedding)."""
        return self.role == "input" and not self.multiplies


@dataclass(frozen=True)
class Scaling:
    """What one parameter gets at this width."""

    shape: tuple[int, ...]
    role: Role
    fan_in: int
    m_in: float
    m_out: float
    base_init_std: float | None
    init_std: float | None
    """Std of the initial values at init_scale 1; None: left as the module made them."""
    forward: float
    """Multiplies the input of the parameter's layer."""
    family: OptimizerFamily
    """Whose rule lr and ε follow: with Muon, hidden matrices are Muon's and all else is Adam's."""
    lr: float
    """Multiplies the learning rate."""
    weight_decay: float
    """Multiplies λ; 0 for parameters that do not decay."""
    eps: float
    """Multiplies Adam's ε."""
    multiplies: bool
    """Whether activations are multiplied by it as by a matrix."""
    tied_to: str | None = None


@dataclass(frozen=True)
class Plan:
    """Scaling of every parameter of one model at one width, for one kind of optimizer."""

    parametrization: Parametrization
    optimizer: str
    width: int
    base_width: int
    parameters: Mapping[str, Scaling]
    attention: Mapping[str, float]
    """What q·k is multiplied by, per attention module."""
    base_attention: Mapping[str, float]
    """The same at base width."""
    residual: Mapping[str, float]
    """What the residual branches of each block are multiplied by."""
    options: Options
    """Optional rules that are on; `lr_factor` multiplies every lr on top of `Scaling.lr`."""
    warnings: tuple[str, ...] = ()
    """Shapes that may be a mistake, for instance a dimension that equals the base width and does not grow."""

    @property
    def width_multiplier(self) -> float:
        """m = width / base width."""
        return self.width / self.base_width

    @property
    def entrances(self) -> set[str]:
        """Weights through which data enters: embeddings, or the first layers of a model without any."""
        tables = {name for name, one in self.parameters.items() if one.role == "input" and not one.multiplies}
        return tables or {name for name, one in self.parameters.items() if one.role == "input"}

    @property
    def parameter_count(self) -> int:
        """Numbers in the model, tied ones once."""
        return sum(math.prod(one.shape) for one in self.parameters.values() if one.tied_to is None)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with any number in the plan."""
        plain = {key: value for key, value in self.as_dict().items() if key != "warnings"}
        plain["options"].pop("notes")
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Settings:
    """What the optimizer is given for one parameter."""

    lr: float
    weight_decay: float
    eps: float | None
    """None where the optimizer has no ε to scale."""


def is_bias(name: str, scaling: Scaling) -> bool:
    """Whether a parameter is added to what a layer or a norm gives."""
    return scaling.role in ("vector", "scalar") and name.rpartition(".")[2].endswith("bias")


def is_norm_gain(name: str, scaling: Scaling) -> bool:
    """Whether a parameter multiplies activations one by one: no bias, and left as its module made it, at one."""
    return scaling.role == "vector" and scaling.base_init_std is None and not is_bias(name, scaling)


def optimizer_settings(
    plan: Plan,
    *,
    lr: float,
    weight_decay: float = 0.0,
    eps: float = 1e-8,
    embedding_lr: float = 1.0,
    norm_gain_lr: float = 1.0,
    bias_lr: float = 1.0,
    adam_lr: float | None = None,
    scaled: bool = True,
) -> dict[str, Settings]:
    """`{parameter name: settings}`; the arguments are those of `parameter_groups`.

    Args:
        scaled: False for the values at base size, before any rule.
    """
    entries = plan.entrances
    found = {}
    for name, one in plan.parameters.items():
        own = adam_lr if adam_lr is not None and plan.optimizer == "muon" and one.family == "adam" else lr
        own *= embedding_lr if name in entries else 1.0
        own *= bias_lr if is_bias(name, one) else norm_gain_lr if is_norm_gain(name, one) else 1.0
        decay, own_eps = weight_decay if one.weight_decay else 0.0, eps
        if scaled:
            own *= plan.options.lr_factor * one.lr
            decay, own_eps = weight_decay * one.weight_decay, eps * one.eps
        if plan.options.weight_decay == "independent":  # torch multiplies by the lr: take it out beforehand
            decay = weight_decay / own if one.weight_decay else 0.0
        found[name] = Settings(own, decay, own_eps if one.family == "adam" else None)
    return found


def make_plan(
    shapes: Iterable[ParameterShape],
    *,
    width: int,
    base_width: int,
    optimizer: str = "adamw",
    parametrization: Parametrization = "mup",
    options: Options | None = None,
    head_dims: Mapping[str, tuple[int, int]] | None = None,
    blocks: Iterable[str] = (),
    warnings: Iterable[str] = (),
) -> Plan:
    """Evaluate the rules for every parameter.

    Args:
        optimizer: `adamw`, `adam`, `sgd` or `muon`.
        head_dims: `{attention module: (head_dim, base head_dim)}`.
        blocks: modules whose residual branches a depth rule scales.

    Raises:
        PlanError: unknown optimizer; a depth rule without residual blocks; interpolation of a model with tied
            embeddings, which has no form without a readout multiplier.
    """
    if optimizer not in rules.FAMILIES:
        raise PlanError(f"optimizer must be one of {', '.join(rules.FAMILIES)}, but got {optimizer!r}")
    options, shapes, blocks = options or Options(), list(shapes), list(blocks)
    if options.depth is not None and not blocks:
        raise PlanError(
            "a depth rule needs pre-norm residual blocks, each with a buffer residual_scale that multiplies what it "
            "adds to the residual stream; this model has none"
        )
    if parametrization == "interpolated" and any(shape.tied_to for shape in shapes):
        raise PlanError("interpolated needs untied weights: a tied readout's multiplier cannot be moved into its init")
    heads = dict(head_dims or {})
    return Plan(
        parametrization=parametrization,
        optimizer=optimizer,
        width=width,
        base_width=base_width,
        parameters={shape.name: _scaling(shape, optimizer, parametrization, options) for shape in shapes},
        attention={
            name: rules.attention_scale(head_dim, base, parametrization=parametrization, init=options.init)
            for name, (head_dim, base) in heads.items()
        },
        base_attention={name: rules.attention_scale(base, base) for name, (_, base) in heads.items()},
        residual=dict.fromkeys(blocks, 1.0 if options.depth is None else options.depth.branch),
        options=options,
        warnings=tuple(warnings),
    )


def _scaling(shape: ParameterShape, optimizer: str, parametrization: Parametrization, options: Options) -> Scaling:
    m_in, m_out = shape.fan_in / shape.base_fan_in, shape.fan_out / shape.base_fan_out
    family = rules.FAMILIES[optimizer]
    if family == "muon" and not (shape.role == "hidden" and len(shape.shape) == 2):
        family = "adam"
    numbers = rules.multipliers(
        shape.role,
        m_in,
        m_out,
        optimizer=family,
        rule=rules.rule_of(parametrization, shape.role, init=options.init, lr=options.lr),
        lookup_exponent=options.lookup_exponent if shape.looks_up else 0.0,
        depth=options.depth if shape.in_branch else None,
    )
    base_std = shape.base_init_std
    return Scaling(
        shape=shape.shape,
        role=shape.role,
        fan_in=shape.fan_in,
        m_in=m_in,
        m_out=m_out,
        base_init_std=base_std,
        init_std=None if base_std is None else base_std * numbers.init_std,
        forward=numbers.forward,
        family=family,
        lr=numbers.lr,
        weight_decay=numbers.weight_decay if shape.decays else 0.0,
        eps=numbers.eps,
        multiplies=shape.multiplies,
        tied_to=shape.tied_to,
    )
