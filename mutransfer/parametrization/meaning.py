"""The modules that `ModelFacts` describes in a built model: checked, and found from shapes where the facts are
silent."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import nn

from mutransfer.errors import PlanError
from mutransfer.parametrization.facts import ModelFacts, matched
from mutransfer.parametrization.growth import following
from mutransfer.parametrization.plan import ModuleNames, ParameterShape, entrances
from mutransfer.parametrization.wrappers import named_modules

ATTENTION_SCALE, RESIDUAL_SCALE, RELATIVE_SCALE = "attention_scale", "residual_scale", "relative_scale"
_OF_LOGITS = "attention_logits"


def modules_of(model: nn.Module, facts: ModelFacts, base: nn.Module, base_facts: ModelFacts) -> ModuleNames:
    """The modules that the facts of a model and of its base name; readouts are found later, from shapes.

    Raises:
        PlanError: a name matches nothing; a module lacks the buffer that its fact is about, or has such a buffer and no
            fact names it.
    """
    names = [name for name, _ in named_modules(model)]
    measured = [*names, *(f"{name}.{_OF_LOGITS}" for name in names)]
    matched([name.partition("#")[0] for name in facts.finite], measured, "ModelFacts.finite")
    head_sizes, base_head_sizes = _head_sizes(model, facts), _head_sizes(base, base_facts)
    if head_sizes.keys() != base_head_sizes.keys():
        raise PlanError("ModelFacts.attention names other modules at the base width: width must change sizes only")
    return ModuleNames(
        positions=tuple(matched(facts.positions, names, "ModelFacts.positions")),
        gains={name: facts.gains[pattern] for name, pattern in matched(facts.gains, names, "ModelFacts.gains").items()},
        head_dims={name: (size, base_head_sizes[name]) for name, size in head_sizes.items()},
        blocks=_with_buffer(model, facts.blocks, RESIDUAL_SCALE, "blocks"),
        relative=_with_buffer(model, facts.relative, RELATIVE_SCALE, "relative"),
    )


def readouts_of(facts: ModelFacts, shapes: Sequence[ParameterShape], inner: Collection[str]) -> tuple[str, ...]:
    """The modules that produce the logits.

    Role `output` says how a weight scales, not what it is for: the router of a mixture of experts has it too. Without
    facts, the readouts are the output layers that no further layer follows, or the last one where each is followed;
    never a weight of `inner`.

    Raises:
        PlanError: a module that the facts name has no weight from the width to a constant size.
    """
    owners = list(dict.fromkeys(shape.module for shape in shapes))
    outputs = list(
        dict.fromkeys(shape.module for shape in shapes if shape.role == "output" and shape.name not in inner)
    )
    if facts.readouts is None:
        last = [one for place, one in enumerate(shapes) if one.module in outputs and not following(shapes[place:])]
        last = [one for one in last if one.role == "output"]
        layers = [one for one in last if one.in_layer] or last  # a weight by itself is a router more often than not
        return tuple(dict.fromkeys(one.module for one in layers)) or tuple(outputs[-1:])
    named = matched(facts.readouts, owners, "ModelFacts.readouts")
    for name in named:
        if name not in outputs:
            raise PlanError(
                f"ModelFacts.readouts: {name} has no weight from the width to a constant size, so it does not produce "
                f"logits; such weights are in {', '.join(outputs) or 'no module'}"
            )
    return tuple(named)


def require_entrances(modules: ModuleNames, shapes: Mapping[str, ParameterShape]) -> None:
    """Refuse positions that `position_scale` would not reach."""
    reached = {shapes[name].module for name in entrances(shapes) if shapes[name].in_layer}
    for name in modules.positions:
        if name not in reached:
            raise PlanError(
                f"ModelFacts.positions: {name} is not an embedding or a first layer, so position_scale cannot multiply "
                f"what it gives; these are {', '.join(sorted(reached)) or 'none'}"
            )


def _head_sizes(model: nn.Module, facts: ModelFacts) -> dict[str, int]:
    """`{attention module: head size}`. A module with the buffer and a whole number `head_dim` needs no fact."""
    said = dict(facts.attention)
    named = matched(said, [name for name, _ in named_modules(model)], "ModelFacts.attention")
    for name, module in named_modules(model):
        size = getattr(module, "head_dim", None)
        if (
            name not in named
            and isinstance(size, int)
            and isinstance(getattr(module, ATTENTION_SCALE, None), torch.Tensor)
        ):
            said[name] = size
    return {name: said[pattern] for name, pattern in _with_buffer(model, said, ATTENTION_SCALE, "attention").items()}


def _with_buffer(model: nn.Module, patterns: Iterable[str], buffer: str, field: str) -> dict[str, str]:
    """The modules that `patterns` name, each with its pattern; each has the buffer, and no other module has it."""
    modules = dict(named_modules(model))
    named = matched(patterns, list(modules), f"ModelFacts.{field}")
    for name, module in modules.items():
        has = isinstance(getattr(module, buffer, None), torch.Tensor)
        if has and name not in named:
            raise PlanError(
                f"{name} has a buffer {buffer}, and ModelFacts.{field} does not name it, so that nothing would set it: "
                f"add {name!r} to ModelFacts.{field}"
            )
        if name in named and not has:
            near = difflib.get_close_matches(buffer, dict(module.named_buffers(recurse=False)), n=1)
            hint = f"its buffer {near[0]} has another name" if near else "register one and multiply by it"
            raise PlanError(f"ModelFacts.{field}: {name} has no buffer {buffer}, which the plan sets; {hint}")
    return named
