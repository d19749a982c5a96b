"""The base of every config section, and the error that points at a field."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field

from mutransfer.registry import subclass_of

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


def section_of(base: type[Section]) -> Callable[[str, Any], None]:
    """What the entry points of a registry of sections have to fit: a subclass of `base` whose `kind` is the name."""

    def require(name: str, found: Any) -> None:
        subclass_of(base)(name, found)
        kind = found.model_fields.get("kind")
        if kind is None or get_args(kind.annotation) != (name,):
            raise TypeError(f'its field kind must be Literal["{name}"], the name of the entry point')

    return require
