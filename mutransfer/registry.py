"""What can be plugged in, by name: a built-in table, and the entry points of other packages. Imports no torch.

A package adds to a registry with an entry point in its pyproject.toml, for instance

    [project.entry-points."mutransfer.optimizers"]
    lamb = "my_package.lamb:LAMB"
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from mutransfer.errors import UsageError, nearest

T = TypeVar("T")


def subclass_of(base: type) -> Callable[[str, Any], None]:
    """Requires that an entry point names a subclass of `base`."""

    def require(name: str, found: Any) -> None:
        if not (isinstance(found, type) and issubclass(found, base)):
            raise TypeError(f"it must be a subclass of {base.__module__}.{base.__name__}")

    return require


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"


class Registry(Generic[T]):
    """Names and what they stand for; nothing is imported before it is asked for."""

    def __init__(
        self,
        kind: str,
        *,
        group: str,
        built_in: Mapping[str, str],
        require: Callable[[str, Any], None] = lambda name, found: None,
    ) -> None:
        """Make a registry.

        Args:
            kind: what the names are, in messages: `optimizer`.
            group: name of the entry point group, such as `mutransfer.optimizers`.
            built_in: `{name: "package.module:object"}`; these names cannot be taken by an entry point.
            require: called with the name and the object of an entry point; raises where the object does not fit.
        """
        self.kind, self.group, self.built_in, self._require = kind, group, dict(built_in), require

    @functools.cached_property
    def _plugged_in(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group) if point.name not in self.built_in}

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, built-in ones first."""
        return (*self.built_in, *sorted(self._plugged_in))

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self._plugged_in

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def load(self, name: str) -> T:
        """The object of that name.

        Raises:
            UsageError: there is no such name, or what a package offers under it cannot be imported or does not fit.
        """
        if name in self.built_in:
            return cast(T, pkgutil.resolve_name(self.built_in[name]))
        point = self._plugged_in.get(name)
        if point is None:
            raise UsageError(self.unknown(name))
        packages = {_package(one) for one in entry_points(group=self.group, name=name)}
        if len(packages) > 1:
            both = " and ".join(sorted(packages))
            raise UsageError(f"{self.kind} {name}: the packages {both} both offer it; uninstall one of them")
        with self._naming_its_package(point):
            found = point.load()
            self._require(name, found)
            return cast(T, found)

    def implementation(self, section: Any) -> Any:
        """The code that a section of this registry names in its `implementation`.

        Raises:
            UsageError: the section is a package's, and its code cannot be imported.
        """
        point = self._plugged_in.get(section.kind)
        if point is None:
            return pkgutil.resolve_name(section.implementation)
        with self._naming_its_package(point):
            return pkgutil.resolve_name(section.implementation)

    @contextmanager
    def _naming_its_package(self, point: EntryPoint) -> Iterator[None]:
        """Where a package's own code runs, every error becomes one message."""
        try:
            yield
        except Exception as error:
            raise UsageError(
                f"{self.kind} {point.name}: the entry point {point.value} of package {_package(point)} cannot be used: "
                f"{error}"
            ) from error

    @functools.cached_property
    def importable(self) -> dict[str, T]:
        """Every entry that can be used, by name."""
        found = {}
        for name in self.names:
            with suppress(UsageError):
                found[name] = self.load(name)
        return found

    def unknown(self, name: str) -> str:
        """The message for a name that cannot be loaded: it is not in the registry, or its package is broken."""
        if name in self.built_in or name in self._plugged_in:
            try:
                self.load(name)
            except UsageError as error:
                return str(error)
        return f"{self.kind} {name}: there is no such {self.kind}; {nearest(name, self.names)}"
