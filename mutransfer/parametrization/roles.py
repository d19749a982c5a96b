"""Roles from shapes: build the model at its base width and wider on the `meta` device, see what grows.

Nothing is guessed from names. Which dimension is fan-in and which fan-out depends on the module that owns the
parameter (an embedding's rows are inputs, a linear layer's rows are outputs), so `_LAYOUTS` says it per class.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mutransfer.errors import PlanError
from mutransfer.parametrization.growth import check_growth, suspect_bottlenecks
from mutransfer.parametrization.plan import ParameterShape, Plan, make_plan
from mutransfer.parametrization.rules import ROLES, Options, Parametrization, Role

ModelFactory = Callable[[int], nn.Module]
_T = TypeVar("_T")

# (fan_out dimension, fan_in dimension) of a weight; further dimensions are a kernel and count as fan-in.
_OUT_IN = (0, 1)
_IN_OUT = (1, 0)
_LAYOUTS: list[tuple[type[nn.Module], tuple[int, int]]] = [
    (nn.Embedding, _IN_OUT),
    (nn.EmbeddingBag, _IN_OUT),
    (nn.ConvTranspose1d, _IN_OUT),
    (nn.ConvTranspose2d, _IN_OUT),
    (nn.ConvTranspose3d, _IN_OUT),
    (nn.Linear, _OUT_IN),
    (nn.Conv1d, _OUT_IN),
    (nn.Conv2d, _OUT_IN),
    (nn.Conv3d, _OUT_IN),
    (nn.MultiheadAttention, _OUT_IN),
]
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LOOKUPS = (nn.Embedding, nn.EmbeddingBag)
# Layers of packages that need not be installed, by the full name of their class. transformers' Conv1D (GPT-2) is a
# linear layer whose weight is transposed.
_FOREIGN_LAYOUTS = {"transformers.pytorch_utils.Conv1D": _IN_OUT}


def is_layer(module: nn.Module) -> bool:
    """Whether `module` multiplies its input by its weight (or looks it up), in a layout that is known here."""
    return _layout_of(module) is not None


def _layout_of(module: nn.Module) -> tuple[int, int] | None:
    found = next((layout for cls, layout in _LAYOUTS if isinstance(module, cls)), None)
    names = (f"{cls.__module__}.{cls.__qualname__}" for cls in type(module).__mro__)
    return found or next((_FOREIGN_LAYOUTS[name] for name in names if name in _FOREIGN_LAYOUTS), None)


@dataclass(frozen=True)
class _Use:
    """One place where a parameter is used: its name there and the module that owns that name."""

    name: str
    module: nn.Module
    parameter: nn.Parameter


def plan_for(
    factory: ModelFactory,
    *,
    width: int,
    base_width: int,
    optimizer: str = "adamw",
    parametrization: Parametrization = "mup",
    roles: Mapping[str, Role] | None = None,
    init_std: Mapping[str, float] | None = None,
    zero_readout: bool = True,
    finite_sizes: Collection[int] = (),
    options: Options | None = None,
) -> Plan:
    """Build the plan of `factory(width)` without allocating its weights.

    Args:
        factory: called with a width, returns the module, on the `meta` device; called three times, or five where a
            dimension does not double with the width.
        width: width of the model that will be trained.
        base_width: width at which µP is the standard parametrization.
        optimizer: `adamw`, `adam`, `sgd` or `muon` (hidden matrices on Muon, all else on AdamW).
        roles: `{name pattern: role}` for parameters whose role shapes cannot tell. A model's attribute
            `parameter_roles` does the same.
        init_std: `{name pattern: std at base width}` instead of the defaults (embeddings 1, dense weights
            1/√fan_in, biases 0, others as constructed). A model's attribute `base_init_std` does the same.
        zero_readout: start readout weights at zero.
        finite_sizes: sizes that do not grow on purpose (vocabulary, classes), so that they raise no warning
            where they happen to equal the base width.
        options: optional rules: depth, batch size, horizon, weight decay, embeddings' lr.

    A module with a buffer `attention_scale` and an attribute `head_dim` gets the µP attention scale; one with a
    buffer `residual_scale` is a residual block for the depth rule.

    Raises:
        PlanError: the parameters differ between widths, a role cannot be told, a pattern matches nothing, a
            dimension grows by an offset (a·width + c), as that of a matrix with parts of different roles does.
    """
    for name, value in (("width", width), ("base_width", base_width)):
        if value < 1:
            raise PlanError(f"{name} must be >= 1, but got {value}")
    base, wider, model = (_on_meta(factory, size) for size in (base_width, 2 * base_width, width))
    own, asked = getattr(base, "base_init_std", {}), dict(init_std or {})
    given = dict(roles or {})
    for pattern, role in getattr(base, "parameter_roles", {}).items():
        given.setdefault(pattern, role)
    base_uses, wider_uses, uses = _uses(base), _uses(wider), _uses(model)
    _require_same_names(base_uses, wider_uses, uses)
    _require_matches([*given, *own, *asked], uses)
    _require_plannable(base, wider)

    warnings = check_growth(
        _shapes(base_uses),
        _shapes(wider_uses),
        lambda size: _shapes(_uses(_on_meta(factory, size))),
        base_width=base_width,
        given=lambda name: _match(name, given) is not None,
    )
    warnings += getattr(model, "mup_warnings", ())
    shapes: dict[str, ParameterShape] = {}
    owners: dict[int, str] = {}
    # In the order of the model, and looked up for every parameter: there may be thousands of both.
    blocks = dict.fromkeys(name for name, module in model.named_modules() if _has_buffer(module, "residual_scale"))
    for name, use in uses.items():
        shape = _parameter_shape(use, base_uses[name], wider_uses[name], _match(name, given), zero_readout=zero_readout)
        owner = owners.setdefault(id(use.parameter), name)
        shapes[name] = replace(
            shape,
            tied_to=None if owner == name else owner,
            in_branch=any(around in blocks for around in _around(name)),
        )
        warnings += _suspicions(shape, base_uses[name], wider_uses[name], base_width, finite_sizes)
    warnings += suspect_bottlenecks(list(shapes.values()), given=lambda name: _match(name, given) is not None)
    _start_tied_embeddings_like_readouts(shapes)
    for overrides in (own, asked):  # what the caller asks for has the last word, under any name of a tied weight
        for name, shape in list(shapes.items()):
            std = _match(name, overrides)
            if std is None:
                continue
            owner = shape.tied_to or name
            for alias, other in list(shapes.items()):
                if (other.tied_to or alias) == owner:
                    shapes[alias] = replace(other, base_init_std=std)
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
        head_dims={
            name: (_head_dim(name, module), _head_dim(name, base_module))
            for (name, module), base_module in zip(model.named_modules(), base.modules(), strict=True)
            if _has_buffer(module, "attention_scale")
        },
        options=options,
        blocks=blocks,
        warnings=warnings,
    )


@contextmanager
def meta_construction() -> Iterator[None]:
    """Modules and tensors made inside have shapes and no memory, and are made in no time."""
    with torch.device("meta"), _NoRandomInit():
        yield


class _NoRandomInit(TorchFunctionMode):
    """Skips `torch.nn.init`: on `meta` it fills nothing, and its first call there imports for seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _on_meta(factory: ModelFactory, width: int) -> nn.Module:
    try:
        with meta_construction():
            return factory(width)
    except (RuntimeError, NotImplementedError) as error:
        raise PlanError(
            f"the model cannot be built at width {width} on the meta device, where tensors have no values: {error}"
        ) from error


def _has_buffer(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), torch.Tensor)


def _head_dim(name: str, module: nn.Module) -> int:
    head_dim = getattr(module, "head_dim", None)
    if not isinstance(head_dim, int):
        raise PlanError(f"{name} has a buffer attention_scale, so it needs an int head_dim, but got {head_dim!r}")
    return head_dim


def _require_plannable(base: nn.Module, wider: nn.Module) -> None:
    """Refuse layers of torch that hide a scale or a layout in which a rule would silently go wrong."""
    for (name, module), wide in zip(base.named_modules(), wider.modules(), strict=True):
        if isinstance(module, _TRANSPOSED) and module.groups != 1:
            raise PlanError(f"{name}: a transposed convolution with groups has no rule here; use groups=1")
        if isinstance(module, nn.MultiheadAttention) and isinstance(wide, nn.MultiheadAttention):
            if module.head_dim != wide.head_dim:
                raise PlanError(
                    f"{name}: nn.MultiheadAttention scales by 1/√head_dim inside, which is wrong for heads that grow: "
                    "let the number of heads grow, or write attention with mutransfer.attention_scale"
                )
            if module.in_proj_weight is None or module.bias_k is not None:
                raise PlanError(f"{name}: nn.MultiheadAttention with kdim, vdim or add_bias_kv has no rule here")


def _uses(model: nn.Module) -> dict[str, _Use]:
    """Every name of every parameter; a tied one appears under each of its names."""
    return {
        f"{prefix}.{name}" if prefix else name: _Use(f"{prefix}.{name}" if prefix else name, module, parameter)
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
    }


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


def _require_matches(patterns: Collection[str], uses: Mapping[str, _Use]) -> None:
    for pattern in patterns:
        if not fnmatch.filter(uses, pattern):
            raise PlanError(f"pattern {pattern!r} matches no parameter; there are {', '.join(list(uses)[:20])}")


def _match(name: str, patterns: Mapping[str, _T]) -> _T | None:
    return next((value for pattern, value in patterns.items() if fnmatch.fnmatchcase(name, pattern)), None)


def _parameter_shape(use: _Use, base: _Use, wider: _Use, given: Role | None, *, zero_readout: bool) -> ParameterShape:
    if given is not None and given not in ROLES:
        raise PlanError(f"role of {use.name} must be one of {', '.join(ROLES)}, but got {given!r}")
    shape, base_shape = tuple(use.parameter.shape), tuple(base.parameter.shape)
    if len(base_shape) != len(shape):
        raise PlanError(f"{use.name} has {len(base_shape)} dimensions at base width and {len(shape)} here")
    grows = [a != b for a, b in zip(base_shape, wider.parameter.shape, strict=True)]
    layout = _layout(use)
    if layout is None:
        role = given or _role_without_layout(use.name, base_shape, grows)
        out_dim, in_dim = _dimensions_without_layout(role, grows)
    else:
        out_dim, in_dim = layout
        depthwise = getattr(use.module, "groups", 1) > 1 and grows[out_dim] and not grows[in_dim]
        role = given or ("vector" if depthwise else _role(in_grows=grows[in_dim], out_grows=grows[out_dim]))
    kernel = math.prod(shape[2:]) if layout is not None else 1

    def size(of: tuple[int, ...], dimension: int | None) -> int:
        return 1 if dimension is None else of[dimension]

    base_fan_in = size(base_shape, in_dim) * kernel
    std: float | None = None
    if use.name.endswith("bias") and is_layer(use.module):
        std = 0.0
    elif isinstance(use.module, _LOOKUPS):
        std = 1.0
    elif role == "output" and zero_readout:
        std = 0.0
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
        decays=role in ("input", "hidden", "output") or (role == "scalar" and len(shape) >= 2),
        multiplies=(layout is not None or role in ("hidden", "output")) and not isinstance(use.module, _LOOKUPS),
    )


def _layout(use: _Use) -> tuple[int, int] | None:
    """(fan_out dimension, fan_in dimension) of a weight in a module we know, None of anything else."""
    if use.parameter.ndim < 2:
        return None
    return _layout_of(use.module)


def _role(*, in_grows: bool, out_grows: bool) -> Role:
    if in_grows and out_grows:
        return "hidden"
    if in_grows:
        return "output"
    return "input" if out_grows else "scalar"


def _role_without_layout(name: str, shape: tuple[int, ...], grows: list[bool]) -> Role:
    """Role of a raw parameter, where its shape leaves no doubt."""
    growing = sum(grows)
    if growing == 0:
        return "scalar"
    if growing == 1 and math.prod(shape) == shape[grows.index(True)]:
        return "vector"
    if growing == 2 and len(shape) == 2:
        return "hidden"
    raise PlanError(
        f"{name} of shape {shape} is no weight of a known layer, so its role cannot be told from its shape: "
        f"give roles={{{name!r}: 'input'}} (or hidden, output, vector, scalar)"
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
    if shape.role == "hidden" and _layout(base) is None and len(set(base.parameter.shape)) > 1:
        found.append(f"{shape.name}: a weight outside any known layer is taken as (out, in), as nn.Linear has it")
    sizes = list(zip(base.parameter.shape, wider.parameter.shape, strict=True))
    for dimension, (size, wide_size) in enumerate(sizes):
        is_rows_of_embedding = isinstance(base.module, _LOOKUPS) and dimension == 0
        if size == wide_size == base_width and size not in finite and not is_rows_of_embedding:
            found.append(
                f"{shape.name}: dimension {dimension} is {size} at every width, which is the base width: "
                "should it grow?"
            )
    return found


def _start_tied_embeddings_like_readouts(shapes: dict[str, ParameterShape]) -> None:
    """A tied embedding is also the readout: std 1 would give logits of size √width, so it gets 1/√fan_in."""
    for shape in list(shapes.values()):
        owner = shapes.get(shape.tied_to or "")
        if owner is not None and {owner.role, shape.role} == {"input", "output"}:
            readout = shape if shape.role == "output" else owner
            std = 1.0 / math.sqrt(readout.base_fan_in)
            shapes[owner.name] = replace(owner, base_init_std=std)
            shapes[shape.name] = replace(shape, base_init_std=std)
