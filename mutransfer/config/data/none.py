"""`data: {kind: none}`: for models that bring their own data."""

from __future__ import annotations

from typing import ClassVar, Literal

from mutransfer.config.data.base import AnyDataSection, ClassSpec


class NoSpec(ClassSpec):
    """What is known here of data that a command reads by itself."""

    consumed_as: ClassVar = "nothing"


class NoneSection(AnyDataSection):
    """No data: a command (model kind `command`) brings its own. This is its default."""

    implementation = "mutransfer.data.none:load"

    kind: Literal["none"]
    """Data kind."""

    @property
    def spec(self) -> ClassSpec:
        """Nothing that a model could be built for."""
        return NoSpec((), 0)
