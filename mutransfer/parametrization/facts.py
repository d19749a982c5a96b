"""What a model says of itself where its shapes cannot tell. Imports no torch."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from mutransfer.errors import PlanError, nearest
from mutransfer.parametrization.rules import Role
from mutransfer.parametrization.wrappers import unwrapped

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")


class ModelFacts(BaseModel):
    """Facts of one model at one width; every field is optional.

    A model carries its facts as an attribute of any name (`self.facts = ModelFacts(…)`), a factory returns them beside
    the model (`return model, facts`), or a caller hands them to `plan_for`. Names are names of modules or parameters,
    or patterns with `*` and `?`. A pattern that matches nothing is an error.

    Raises:
        PlanError: an unknown field, with the nearest name; a value of the wrong type.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    readouts: tuple[str, ...] | None = None
    """Modules that produce the logits: the temperature divides them, and their weights start at zero. Default: the
    layers from the width to a constant size that no further layer follows."""
    positions: tuple[str, ...] = ()
    """Modules whose output `position_scale` multiplies: tables of learned positions."""
    gains: Mapping[str, float] = Field(default_factory=dict)
    """`{module: number}`: its output is multiplied by that number at every width, such as √base_width for an embedding
    that is tied to the readout."""
    finite: tuple[str, ...] = ()
    """Modules whose output does not grow on purpose; the coordinate check does not judge how they grow."""
    roles: Mapping[str, Role] = Field(default_factory=dict)
    """`{parameter: role}` where its shape cannot tell."""
    layouts: Mapping[str, Literal["out_in", "in_out"]] = Field(default_factory=dict)
    """`{parameter: order of its last two dimensions}` for weights outside layers that are multiplied as matrices, or as
    a stack of them: `in_out` where the code writes `x @ weight`, `out_in` where it writes `F.linear(x, weight)`."""
    init_std: Mapping[str, float] = Field(default_factory=dict)
    """`{parameter: std at base width}` instead of the default."""
    as_made: tuple[str, ...] = ()
    """Parameters, and modules with all their parameters, whose initial values stay as the module made them: pretrained
    weights, prior biases, gates that start at zero."""
    attention: Mapping[str, PositiveInt] = Field(default_factory=dict)
    """`{attention module: head size}`: each has a scalar buffer `attention_scale`, multiplies q·k by it, and the plan
    sets it."""
    blocks: tuple[str, ...] = ()
    """Residual blocks: each has a scalar buffer `residual_scale`, multiplies its branches by it, and a depth rule sets
    it."""
    relative: tuple[str, ...] = ()
    """Modules of relative positions: each has a scalar buffer `relative_scale`, multiplies its bias by it, and
    `hparams.relative_scale` sets it."""
    warnings: tuple[str, ...] = ()
    """What users should know; shown with the plan."""

    def __init__(self, **fields: Any) -> None:
        unknown = sorted(fields.keys() - type(self).model_fields.keys())
        if unknown:
            raise PlanError(f"ModelFacts has no field {unknown[0]}; {nearest(unknown[0], type(self).model_fields)}")
        try:
            super().__init__(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            raise PlanError(f"ModelFacts.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def extended(self, **further: Any) -> Self:
        """These facts and further ones, given by field; where both name a parameter, the further fact counts."""
        added = type(self)(**{field: value for field, value in further.items() if value})
        changed = {field: getattr(added, field) for field in added.model_fields_set}
        for field, new in changed.items():
            old = getattr(self, field)
            if field != "readouts":
                changed[field] = first(new, old) if isinstance(new, Mapping) else (*old, *new)
        return self.model_copy(update=changed)


def first(patterns: Mapping[str, T], others: Mapping[str, T]) -> dict[str, T]:
    """Both, `patterns` in front: the first pattern that matches a name counts."""
    return {**patterns, **{name: value for name, value in others.items() if name not in patterns}}


def facts_of(model: nn.Module) -> ModelFacts:
    """The facts that a model carries in an attribute of any name; no facts where it carries none.

    Raises:
        PlanError: it carries more than one.
    """
    model = unwrapped(model)
    found = [value for value in vars(model).values() if isinstance(value, ModelFacts)]
    if len(found) > 1:
        raise PlanError(f"{type(model).__name__} carries {len(found)} ModelFacts, and only one can be right; keep one")
    return found[0] if found else ModelFacts()


def carry(model: nn.Module, facts: ModelFacts) -> None:
    """Give a model its facts, in the place of those that it carries."""
    model = unwrapped(model)
    name = next((key for key, value in vars(model).items() if isinstance(value, ModelFacts)), "mup_facts")
    setattr(model, name, facts)


def matched(patterns: Iterable[str], names: Collection[str], field: str) -> dict[str, str]:
    """`{name: the first pattern that matches it}`, in the order of `names`. A name is a pattern for itself.

    Raises:
        PlanError: a pattern matches nothing; the message names `field` and the nearest name.
    """
    known, found = set(names), dict[str, str]()
    for pattern in patterns:
        own = [pattern] if pattern in known else fnmatch.filter(names, pattern)  # there may be thousands of both
        if not own:
            raise PlanError(f"{field}: {pattern!r} matches nothing in the model; {nearest(pattern, names)}")
        for name in own:
            found.setdefault(name, pattern)
    return {name: found[name] for name in names if name in found}
