"""The base of every config section, and the error that points at a field."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

SEEDS = 2**31
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]


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
