"""Roles from shapes: build the model at its base width and wider on the `meta` device, see what grows.

Nothing is guessed from names. Which dimension is fan-in and which fan-out depends on the module that owns the
parameter (an embedding's rows are inputs, a linear layer's rows are outputs), so `layers` says it per class.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import nn

from mutransfer.errors import PlanError
from mutransfer.optimizers.base import Optimizer
from mutransfer.parametrization.building import ModelFactory, on_meta
from mutransfer.parametrization.facts import ModelFacts, first, matched
from mutransfer.parametrization.growth import check_growth, suspect_bottlenecks
from mutransfer.parametrization.layers import LOOKUPS, TRANSPOSED, is_layer_bias, layout_of, takes_multipliers
from mutransfer.parametrization.meaning import modules_of, readouts_of, require_entrances
from mutransfer.parametrization.normed import WeightPart, part_of
from mutransfer.parametrization.plan import ParameterShape, Plan, make_plan
from mutransfer.parametrization.rules import ROLES, Options, Parametrization, Role
from mutransfer.parametrization.wrappers import named_modules

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Use:
    """One place where a parameter is used: its name there and the module that owns that name."""

    name: str
    module: nn.Module
    parameter: nn.Parameter
    layout: tuple[int, int] | None
    """(fan_out dimension, fan_in dimension) of a weight in a module we know, or that the facts tell; None of others."""
    part: WeightPart | None = None
    """Of a weight that is computed from several parameters."""


def plan_for(
    factory: ModelFactory,
    *,
    width: int,
    base_width: int,
    optimizer: str | Optimizer = "adamw",
    parametrization: Parametrization = "mup",
    facts: ModelFacts | Callable[[int], ModelFacts] | None = None,
    roles: Mapping[str, Role] | None = None,
    init_std: Mapping[str, float] | None = None,
    zero_readout: bool = True,
    finite_sizes: Collection[int] = (),
    options: Options | None = None,
) -> Plan:
    """Build the plan of `factory(width)` without allocating its weights.

    Args:
        factory: called with a width, returns the module, or the module and its `ModelFacts`, on the `meta` device;
            called three times, or five where a dimension does not double with the width.
        width: width of the model that will be trained.
        base_width: width at which µP is the standard parametrization.
        optimizer: name of a registered optimizer, such as `adamw`, `sgd` or `muon`, or a record.
        facts: what shapes cannot tell, for a module that does not carry it; a function of the width where the facts
            follow it (head sizes that grow).
        roles: `{name pattern: role}` beside those of the facts. `hidden` of a layer from the width to a constant size
            says that it is not the readout; it has the rule of `output`, the only one that is right for it.
        init_std: `{name pattern: std at base width}` instead of the defaults (embeddings 1, dense weights
            1/√fan_in, biases 0, others as constructed); they have the last word over those of the facts.
        zero_readout: start readout weights at zero.
        finite_sizes: sizes that do not grow on purpose (vocabulary, classes), so that they raise no warning
            where they happen to equal the base width.
        options: optional rules: depth, batch size, horizon, weight decay, embeddings' lr.

    Raises:
        PlanError: the parameters differ between widths, or a role cannot be told; a name or pattern matches nothing, or
            a module that the facts name lacks its buffer; a dimension grows by an offset (a·width + c).
    """
    for name, value in (("width", width), ("base_width", base_width)):
        if value < 1:
            raise PlanError(f"{name} must be >= 1, but got {value}")
    (base, base_facts), (wider, _), (model, said) = (
        on_meta(factory, size, facts) for size in (base_width, 2 * base_width, width)
    )
    base_uses, wider_uses, uses = (_uses(one, said.layouts) for one in (base, wider, model))
    _require_same_names(base_uses, wider_uses, uses)
    matched([*said.roles, *(roles or {})], uses, "roles")
    matched([*said.init_std, *(init_std or {})], uses, "init_std")
    matched(said.layouts, uses, "ModelFacts.layouts")
    _require_plannable(base, wider)
    given = first(roles or {}, said.roles)

    def is_given(name: str) -> bool:
        return _match(name, given) is not None

    warnings = check_growth(
        _shapes(base_uses),
        _shapes(wider_uses),
        lambda size: _shapes(_uses(on_meta(factory, size, facts)[0], {})),
        base_width=base_width,
        given=is_given,
    )
    warnings += said.warnings
    modules = modules_of(model, said, base, base_facts)
    shapes: dict[str, ParameterShape] = {}
    tied: dict[int, list[str]] = {}
    blocks = set(modules.blocks)  # looked up for every parameter: there may be thousands of both
    _require_roles(base_uses, wider_uses, given)
    as_made = [one if one in uses or fnmatch.filter(uses, one) else f"{one}.*" for one in said.as_made]
    kept = matched(as_made, uses, "ModelFacts.as_made")
    for name, use in uses.items():
        shape = _parameter_shape(use, base_uses[name], wider_uses[name], _match(name, given), drawn=name not in kept)
        tied.setdefault(id(use.parameter), []).append(name)
        shapes[name] = replace(shape, in_branch=any(around in blocks for around in _around(name)))
        warnings += _suspicions(shape, base_uses[name], wider_uses[name], base_width, finite_sizes)
    for names in tied.values():  # an embedding owns what it shares, whichever module is registered first
        owner = next((name for name in names if shapes[name].role == "input"), names[0])
        shapes.update({name: replace(shapes[name], tied_to=owner) for name in names if name != owner})
    inner = {name for name in shapes if _match(name, given) == "hidden"}
    modules = replace(modules, readouts=readouts_of(said, list(shapes.values()), inner))
    require_entrances(modules, shapes)
    warnings += suspect_bottlenecks(list(shapes.values()), given=is_given)
    _start(shapes, modules.readouts if zero_readout else ())
    _override_std(shapes, said.init_std)
    for name in kept:
        shapes[name] = replace(shapes[name], base_init_std=None)
    _override_std(shapes, init_std or {})
    if "output" not in {shape.role for shape in shapes.values()}:
        warnings.append(
            "no parameter is a readout (width → finite): if logits come from a weight used by hand, as in "
            "F.linear(x, embedding.weight), multiply them by base width / width yourself"
        )
    return make_plan(
        shapes.values(),
        width=width,
        base_width=base_width,
        optimizer=optimizer,
        parametrization=parametrization,
        modules=modules,
        options=options,
        warnings=warnings,
    )


def _require_plannable(base: nn.Module, wider: nn.Module) -> None:
    """Refuse layers of torch that hide a scale or a layout in which a rule would silently go wrong."""
    others = dict(named_modules(wider))
    for name, module in named_modules(base):
        wide = others.get(name)
        if isinstance(module, TRANSPOSED) and module.groups != 1:
            raise PlanError(f"{name}: a transposed convolution with groups has no rule here; use groups=1")
        if isinstance(module, nn.MultiheadAttention) and isinstance(wide, nn.MultiheadAttention):
            if module.head_dim != wide.head_dim:
                raise PlanError(
                    f"{name}: nn.MultiheadAttention scales by 1/√head_dim inside, which is wrong for heads that grow: "
                    "let the number of heads grow, or write attention with mutransfer.attention_scale"
                )
            if module.in_proj_weight is None or module.bias_k is not None:
                raise PlanError(f"{name}: nn.MultiheadAttention with kdim, vdim or add_bias_kv has no rule here")


def _uses(model: nn.Module, layouts: Mapping[str, str]) -> dict[str, _Use]:
    """Every name of every parameter; a tied one appears under each of its names."""
    modules, found = dict(named_modules(model, remove_duplicate=False)), {}
    for prefix, owner in modules.items():
        for own, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            name, dimensions = f"{prefix}.{own}" if prefix else own, parameter.ndim
            module, part = part_of(modules, prefix, owner, own) or (owner, None)
            module = nn.Module() if part == "gain" else module  # it has no part in how the layer multiplies
            layout = layout_of(module)
            if layout is None and (order := _match(name, layouts)) is not None:
                last, before = dimensions - 1, dimensions - 2
                layout = (last, before) if order == "in_out" else (before, last)
            found[name] = _Use(name, module, parameter, layout if dimensions > 1 else None, part)
    return found


def _around(name: str) -> Iterator[str]:
    """The modules around a parameter: `a.b` and `a` of `a.b.weight`."""
    while name := name.rpartition(".")[0]:
        yield name


def _shapes(uses: Mapping[str, _Use]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(use.parameter.shape) for name, use in uses.items()}


def _require_same_names(*models: Mapping[str, _Use]) -> None:
    first = models[0].keys()
    for other in models[1:]:
        changed = sorted(first ^ other.keys())
        if changed:
            raise PlanError(
                f"the model has other parameters at another width ({', '.join(changed[:5])}): width must change "
                "sizes only"
            )


def _match(name: str, patterns: Mapping[str, _T]) -> _T | None:
    found = (value for pattern, value in patterns.items() if pattern == name or fnmatch.fnmatchcase(name, pattern))
    return next(found, None)


def _parameter_shape(use: _Use, base: _Use, wider: _Use, given: Role | None, *, drawn: bool) -> ParameterShape:
    if given is not None and given not in ROLES:
        raise PlanError(f"role of {use.name} must be one of {', '.join(ROLES)}, but got {given!r}")
    shape, base_shape = tuple(use.parameter.shape), tuple(base.parameter.shape)
    if len(base_shape) != len(shape):
        raise PlanError(f"{use.name} has {len(base_shape)} dimensions at base width and {len(shape)} here")
    grows = [a != b for a, b in zip(base_shape, wider.parameter.shape, strict=True)]
    layout = use.layout
    if layout is None:
        role = given or _role_without_layout(base_shape, grows) or "scalar"  # `_require_roles` has seen it
        out_dim, in_dim = _dimensions_without_layout(role, grows)
    else:
        out_dim, in_dim = layout
        depthwise = getattr(use.module, "groups", 1) > 1 and grows[out_dim] and not grows[in_dim]
        # A stack of matrices of constant size, one for each head, is to width what numbers per channel are.
        stacked = not grows[in_dim] and not grows[out_dim] and any(grows)
        by_shape = "vector" if depthwise or stacked else _role(in_grows=grows[in_dim], out_grows=grows[out_dim])
        # A layer from the width to a constant size cannot be hidden: hidden's lr and std would make what it sends back,
        # and then its own change, grow like √width. Who says so says that it is not the readout.
        # A weight that stays as made (LoRA's) has a std of its own and is left to the user.
        role = by_shape if drawn and by_shape == "output" and given == "hidden" else given or by_shape
        out_dim = grows.index(True) if stacked and role == "vector" else out_dim
        if use.part == "spectral" and role not in ("hidden", "output"):
            raise PlanError(
                f"{use.name}: a spectral norm divides by a number that grows like √width here, because the layer's "
                "input does not grow, so that what it gives would shrink; leave it out there, or use weight_norm"
            )
    kernel = math.prod(shape[2:]) if layout_of(use.module) is not None else 1

    def size(of: tuple[int, ...], dimension: int | None) -> int:
        return 1 if dimension is None else of[dimension]

    base_fan_in = size(base_shape, in_dim) * kernel
    std: float | None = None
    frozen = not use.parameter.requires_grad
    if frozen:
        std = None
    elif is_layer_bias(use.name, use.module):
        std = 0.0
    elif isinstance(use.module, LOOKUPS):
        std = 1.0
    elif layout is not None or role in ("hidden", "output"):
        std = 1.0 / math.sqrt(base_fan_in)
    return ParameterShape(
        name=use.name,
        shape=shape,
        role=role,
        fan_in=size(shape, in_dim) * kernel,
        fan_out=size(shape, out_dim),
        base_fan_in=base_fan_in,
        base_fan_out=size(base_shape, out_dim),
        base_init_std=std,
        decays=not frozen
        and use.part != "gain"
        and (role in ("input", "hidden", "output") or (role == "scalar" and len(shape) >= 2)),
        multiplies=(layout is not None or role in ("hidden", "output")) and not isinstance(use.module, LOOKUPS),
        in_layer=takes_multipliers(use.module),
        frozen=frozen,
        normed=use.part in ("direction", "spectral"),
    )


def _role(*, in_grows: bool, out_grows: bool) -> Role:
    if in_grows and out_grows:
        return "hidden"
    if in_grows:
        return "output"
    return "input" if out_grows else "scalar"


def _role_without_layout(shape: tuple[int, ...], grows: list[bool]) -> Role | None:
    """Role of a raw parameter, where its shape leaves no doubt."""
    growing = sum(grows)
    if growing == 0:
        return "scalar"
    if growing == 1 and math.prod(shape) == shape[grows.index(True)]:
        return "vector"
    return "hidden" if growing == 2 and len(shape) == 2 else None


def _require_roles(base: Mapping[str, _Use], wider: Mapping[str, _Use], given: Mapping[str, Role]) -> None:
    """Refuse weights outside any known layer whose shapes do not tell their role, all in one message."""
    unknown = {}
    for name, use in base.items():
        shape = tuple(use.parameter.shape)
        grows = [a != b for a, b in zip(shape, wider[name].parameter.shape, strict=True)]
        if _match(name, given) is None and use.layout is None and _role_without_layout(shape, grows) is None:
            unknown[name] = (shape, sum(grows))
    if not unknown:
        return
    lines = [
        f"    {name} of shape {shape}: "
        + (
            "hidden, if activations are multiplied by it (a matrix for each expert or head)"
            if growing > 1
            else "output, if activations are multiplied by it (a router, a projection); input, if it is looked up or "
            "added (positions, tokens); vector, if it holds numbers for each channel"
        )
        for name, (shape, growing) in unknown.items()
    ]
    first, (_, growing) = next(iter(unknown.items()))
    example = "hidden" if growing > 1 else "input"
    raise PlanError(
        f"the shape of {'this weight' if len(lines) == 1 else 'these weights'} does not tell the role: no layer of a "
        f"known class owns it. Give roles, as in roles={{{first!r}: {example!r}}}:\n" + "\n".join(lines)
    )


def _dimensions_without_layout(role: Role, grows: list[bool]) -> tuple[int | None, int | None]:
    """(fan_out, fan_in) dimensions: the growing ones, rows before columns as in a linear layer."""
    growing = [dimension for dimension, grown in enumerate(grows) if grown]
    if not growing or role == "scalar":
        return None, None
    if role == "hidden":
        return growing[0], growing[-1]
    if role == "output":
        return None, growing[-1]
    return growing[-1], None


def _suspicions(shape: ParameterShape, base: _Use, wider: _Use, base_width: int, finite: Collection[int]) -> list[str]:
    """Dimensions of matrices that may be meant to grow and do not."""
    if base.parameter.ndim < 2:
        return []
    found = []
    if shape.role == "hidden" and base.layout is None and len(set(base.parameter.shape)) > 1:
        found.append(f"{shape.name}: a weight outside any known layer is taken as (out, in), as nn.Linear has it")
    sizes = list(zip(base.parameter.shape, wider.parameter.shape, strict=True))
    for dimension, (size, wide_size) in enumerate(sizes):
        is_rows_of_embedding = isinstance(base.module, LOOKUPS) and dimension == 0
        if size == wide_size == base_width and size not in finite and not is_rows_of_embedding:
            found.append(
                f"{shape.name}: dimension {dimension} is {size} at every width, which is the base width: "
                "should it grow?"
            )
    return found


def _override_std(shapes: dict[str, ParameterShape], overrides: Mapping[str, float]) -> None:
    """Change initial stds, under any name of a tied weight."""
    for name, shape in list(shapes.items()):
        std = _match(name, overrides)
        if std is None:
            continue
        if shape.frozen:
            raise PlanError(f"init_std: {name} is not trained (requires_grad=False) and keeps the values it has")
        owner = shape.tied_to or name
        for alias, other in list(shapes.items()):
            if (other.tied_to or alias) == owner:
                shapes[alias] = replace(other, base_init_std=std)


def _start(shapes: dict[str, ParameterShape], zero: Collection[str]) -> None:
    """Readouts start at zero. A tied embedding is also the readout: std 1 would give logits of size √width, so it gets
    1/√fan_in."""
    for shape in list(shapes.values()):
        if shape.module in zero and shape.role == "output" and not shape.frozen and not shape.normed:
            shapes[shape.name] = replace(shape, base_init_std=0.0)
    for shape in list(shapes.values()):
        owner = shapes.get(shape.tied_to or "")
        if owner is not None and not owner.frozen and {owner.role, shape.role} == {"input", "output"}:
            readout = shape if shape.role == "output" else owner
            std = 1.0 / math.sqrt(readout.base_fan_in)
            shapes[owner.name] = replace(owner, base_init_std=std)
            shapes[shape.name] = replace(shapes[shape.name], base_init_std=std)
