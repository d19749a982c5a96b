"""The field type of a section whose `kind` names an entry of a registry."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, Union

from pydantic import Field

from mutransfer.config.base import Section
from mutransfer.registry import Registry

S = TypeVar("S", bound=Section)


def union_of(registry: Registry[Any]) -> Any:
    """The union of a registry's sections by their `kind`. An entry point that cannot be used is left out; a config
    that names it gets the reason."""
    return Annotated[Union[tuple(registry.importable.values())], Field(discriminator="kind")]  # noqa: UP007


def class_of(registry: Registry[type[S]], given: Any) -> type[S] | None:
    """The class of a section, given as plain data or as a section; None where its kind is unknown."""
    kind = given.get("kind") if isinstance(given, dict) else getattr(given, "kind", None)
    return registry.importable.get(str(kind))
