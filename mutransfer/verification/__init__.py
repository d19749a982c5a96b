"""Checks that say pass or fail: whether activations keep their size, and whether optima stay where they are.

The public names are loaded on first use; docs/checks.md has an example for a module of your own.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mutransfer.verification.coord_check import CoordinateCheck as CoordinateCheck
    from mutransfer.verification.coord_check import check_config as check_config
    from mutransfer.verification.coord_check import coordinate_check as coordinate_check
    from mutransfer.verification.coordinates import write_activations as write_activations
    from mutransfer.verification.quick import quick_check as quick_check

_HOMES = {
    "CoordinateCheck": "mutransfer.verification.coord_check",
    "check_config": "mutransfer.verification.coord_check",
    "coordinate_check": "mutransfer.verification.coord_check",
    "quick_check": "mutransfer.verification.quick",
    "write_activations": "mutransfer.verification.coordinates",
}

__all__ = ["CoordinateCheck", "check_config", "coordinate_check", "quick_check", "write_activations"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'mutransfer.verification' has no attribute {name!r}")
    return pkgutil.resolve_name(f"{home}:{name}")


def __dir__() -> list[str]:
    return __all__
