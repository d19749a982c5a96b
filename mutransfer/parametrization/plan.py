"""The plan: `{parameter name: scaling}` for one model at one width, as plain data. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mutransfer.errors import PlanError
from mutransfer.optimizers import OPTIMIZERS
from mutransfer.optimizers.base import Optimizer, OptimizerFamily
from mutransfer.parametrization import rules
from mutransfer.parametrization.rules import Options, Parametrization, Role

OutputHparam = Literal["temperature", "embedding_scale", "position_scale"]


PARAMETRIZED = ".parametrizations.weight"
"""Where torch keeps what the weight of a layer is computed from."""


def layer_of(parameter: str) -> str:
    """Name of the module that owns a parameter, or that computes its weight from it."""
    return parameter.rpartition(".")[0].removesuffix(PARAMETRIZED)


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
    in_layer: bool = True
    """Whether it belongs to a layer whose input and output can be multiplied from outside."""
    tied_to: str | None = None
    """Name of the parameter whose tensor this one shares."""
    in_branch: bool = False
    """Whether it belongs to a residual block whose branches a depth rule scales."""
    frozen: bool = False
    """Whether it is not trained (`requires_grad=False`); its values stay as its module made them."""

    normed: bool = False
    """Whether the weight is this one divided by its norm, so that its std has no effect."""

    @property
    def looks_up(self) -> bool:
        """Whether it is a lookup table (an embedding)."""
        return self.role == "input" and not self.multiplies

    @property
    def module(self) -> str:
        """Name of the module that owns it."""
        return layer_of(self.name)


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
    """Multiplies the learning rate, the rules of batch size, horizon and depth included."""
    weight_decay: float
    """Multiplies λ; 0 for parameters that do not decay."""
    eps: float
    """Multiplies Adam's ε."""
    multiplies: bool
    """Whether activations are multiplied by it as by a matrix."""
    tied_to: str | None = None
    frozen: bool = False
    """Whether it is not trained and keeps the values that its module made."""


@dataclass(frozen=True)
class ModuleScaling:
    """What the input and the output of one module are multiplied by."""

    weight: str | None = None
    """The parameter whose `Scaling.forward` multiplies the input; None where the input stays as it is."""
    gain: float = 1.0
    """Multiplies the output at every width: `ModelFacts.gains`."""
    hparam: OutputHparam | None = None
    """The hparam that scales the output too."""


@dataclass(frozen=True)
class Plan:
    """Scaling of every parameter of one model at one width, for one kind of optimizer."""

    parametrization: Parametrization
    optimizer: str
    width: int
    base_width: int
    parameters: Mapping[str, Scaling]
    modules: Mapping[str, ModuleScaling]
    """Modules whose input or output is multiplied."""
    attention: Mapping[str, float]
    """What q·k is multiplied by, per attention module."""
    base_attention: Mapping[str, float]
    """The same at base width."""
    residual: Mapping[str, float]
    """What the residual branches of each block are multiplied by."""
    relative: tuple[str, ...]
    """Modules of relative positions, whose bias `relative_scale` multiplies."""
    options: Options
    """Optional rules that are on; `Scaling` includes them."""
    warnings: tuple[str, ...] = ()
    """Shapes that may be a mistake, for instance a dimension that equals the base width and does not grow."""

    @property
    def width_multiplier(self) -> float:
        """m = width / base width."""
        return self.width / self.base_width

    @property
    def entrances(self) -> set[str]:
        """Weights through which data enters: embeddings, or the first layers of a model without any."""
        return entrances(self.parameters)

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


def entrances(parameters: Mapping[str, ParameterShape | Scaling]) -> set[str]:
    """The input weights that are lookup tables; all input weights where no table is among them."""
    tables = {name for name, one in parameters.items() if one.role == "input" and not one.multiplies}
    return tables or {name for name, one in parameters.items() if one.role == "input"}


@dataclass(frozen=True)
class ModuleNames:
    """Names of the modules that `ModelFacts` describes in one model."""

    readouts: Collection[str] = ()
    positions: Collection[str] = ()
    gains: Mapping[str, float] = field(default_factory=dict)
    head_dims: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """`{attention module: (head size, base head size)}`."""
    blocks: Collection[str] = ()
    relative: Collection[str] = ()


def make_plan(
    shapes: Iterable[ParameterShape],
    *,
    width: int,
    base_width: int,
    optimizer: str | Optimizer = "adamw",
    parametrization: Parametrization = "mup",
    options: Options | None = None,
    modules: ModuleNames | None = None,
    warnings: Iterable[str] = (),
) -> Plan:
    """Evaluate the rules for every parameter.

    Args:
        optimizer: name of a registered optimizer, or a record.
        modules: modules that have a meaning beyond their parameters' shapes.

    Raises:
        UsageError: there is no such optimizer.
        PlanError: a depth rule without residual blocks; interpolation of a model with tied
            embeddings, which has no form without a readout multiplier.
    """
    record = OPTIMIZERS.load(optimizer) if isinstance(optimizer, str) else optimizer
    options, shapes, names = options or Options(), list(shapes), modules or ModuleNames()
    if options.depth is not None and not names.blocks:
        raise PlanError(
            "a depth rule needs pre-norm residual blocks: name them in ModelFacts.blocks, and give each a buffer "
            "residual_scale that multiplies what it adds to the residual stream"
        )
    if parametrization == "interpolated" and any(shape.tied_to for shape in shapes):
        raise PlanError("interpolated needs untied weights: a tied readout's multiplier cannot be moved into its init")
    # A weight that cannot be multiplied has the rule without a multiplier, and so has one that keeps its values: a
    # multiplier would change what a pretrained layer computes. A tied one that is trained has no such rule.
    tied = {name for shape in shapes if shape.tied_to and not shape.frozen for name in (shape.name, shape.tied_to)}
    alone = {shape.name for shape in shapes if shape.in_layer and shape.base_init_std is not None}
    multiplied = alone | tied
    parameters = {
        shape.name: _scaling(shape, record, parametrization, options, multiplier=shape.name in multiplied)
        for shape in shapes
    }
    return Plan(
        parametrization=parametrization,
        optimizer=record.name,
        width=width,
        base_width=base_width,
        parameters=parameters,
        modules=_modules(shapes, parameters, names, multiplied),
        attention={
            name: rules.attention_scale(head_dim, base, parametrization=parametrization, init=options.init)
            for name, (head_dim, base) in names.head_dims.items()
        },
        base_attention={name: rules.attention_scale(base, base) for name, (_, base) in names.head_dims.items()},
        residual=dict.fromkeys(names.blocks, 1.0 if options.depth is None else options.depth.branch),
        relative=tuple(names.relative),
        options=options,
        warnings=tuple(warnings),
    )


def _modules(
    shapes: Iterable[ParameterShape], parameters: Mapping[str, Scaling], names: ModuleNames, multiplied: set[str]
) -> dict[str, ModuleScaling]:
    """The modules that are multiplied; the same ones at every width and for all hparams."""
    found = {name: ModuleScaling(gain=gain) for name, gain in names.gains.items()}
    enters = entrances(parameters)
    for shape in shapes:
        before = shape.name in multiplied and (shape.role == "output" or parameters[shape.name].forward != 1.0)
        hparam: OutputHparam | None = None
        if shape.module in names.readouts and shape.role == "output":
            hparam = "temperature"
        elif shape.name in enters and shape.in_layer:
            hparam = "position_scale" if shape.module in names.positions else "embedding_scale"
        if before or hparam is not None:
            weight = shape.name if before else None
            found[shape.module] = ModuleScaling(weight, names.gains.get(shape.module, 1.0), hparam)
    return found


def _scaling(
    shape: ParameterShape,
    optimizer: Optimizer,
    parametrization: Parametrization,
    options: Options,
    *,
    multiplier: bool,
) -> Scaling:
    m_in, m_out = shape.fan_in / shape.base_fan_in, shape.fan_out / shape.base_fan_out
    is_matrix = shape.role == "hidden" and len(shape.shape) == 2
    family = (optimizer if is_matrix else optimizer.rest or optimizer).family
    numbers = rules.multipliers(
        shape.role,
        m_in,
        m_out,
        optimizer=family,
        rule=rules.NORMED_OUTPUT
        if shape.normed and shape.role == "output" and parametrization == "mup"
        else rules.rule_of(parametrization, shape.role, init=options.init, lr=options.lr, multiplier=multiplier),
        lookup_exponent=options.lookup_exponent if shape.looks_up else 0.0,
        depth=options.depth if shape.in_branch else None,
        lr_factor=options.lr_factor,
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
        frozen=shape.frozen,
    )
