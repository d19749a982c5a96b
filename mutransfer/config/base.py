"""The base of every config section, and the error that points at a field."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field

from mutransfer.registry import subclass_of

SEEDS = 2**31
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]

# The largest number of each field is beyond what anybody has trained with, and far below what a clock, a disk or torch
# can no longer count.
MOST_STEPS = 10**9
"""At a thousand steps a second they take eleven days; the longest runs known have some millions."""
Steps = Annotated[int, Field(gt=0, le=MOST_STEPS)]
Size = Annotated[int, Field(gt=0, le=10**7)]
"""A width, a vocabulary, a batch, a context. A square fp32 matrix of the largest has 400 terabytes; torch can no longer
count a few thousand times more."""
MOST_DEPTH = 10_000
Depth = Annotated[int, Field(gt=0, le=MOST_DEPTH)]
"""Layers. A plan makes every one, if without memory, three times."""
Pixels = Annotated[int, Field(gt=0, le=10_000)]
"""A side of an image: three channels of the largest are 1.2 gigabytes."""
MOST_TRIALS = 100_000
Count = Annotated[int, Field(gt=0, le=MOST_TRIALS)]
"""Trials, seeds, batches, workers: what is gone through one by one."""
CountOrNone = Annotated[int, Field(ge=0, le=MOST_TRIALS)]
Few = Annotated[int, Field(gt=0, le=1000)]
"""What there are a handful of: retries, hypotheses of a beam, widths of a feed-forward layer."""
RowCount = Annotated[int, Field(gt=0, le=10**12)]
"""Examples of a data set."""
MOST = 1e30
Factor = Annotated[float, Field(gt=0, le=MOST)]
"""A learning rate, or what something is multiplied by; fp32 ends at 3e38."""
FactorOrZero = Annotated[float, Field(ge=0, le=MOST)]
Seconds = Annotated[float, Field(gt=0, le=1e8)]
"""At most three years."""
SecondsOrZero = Annotated[float, Field(ge=0, le=1e8)]


class FieldProblem(ValueError):
    """A value that is well typed and still impossible; `path` leads to it from the section that raised.

    Raised inside pydantic validators; `config.load` turns it into `file:line: field: message`.
    """

    def __init__(self, path: Iterable[str | int], message: str) -> None:
        super().__init__(message)
        self.path = tuple(path)


class Section(BaseModel):
    """A part of the config: frozen, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def section_of(base: type[Section]) -> Callable[[str, Any], None]:
    """What the entry points of a registry of sections have to fit: a subclass of `base` whose `kind` is the name."""

    def require(name: str, found: Any) -> None:
        subclass_of(base)(name, found)
        kind = found.model_fields.get("kind")
        if kind is None or get_args(kind.annotation) != (name,):
            raise TypeError(f'its field kind must be Literal["{name}"], the name of the entry point')

    return require
