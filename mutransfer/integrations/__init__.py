"""The coordinate check's numbers inside other trainers, logged while the model trains.

The public names are loaded on first use; docs/other-trainers.md has an example for each trainer.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mutransfer.integrations.huggingface import HuggingFaceCoordinates as HuggingFaceCoordinates
    from mutransfer.integrations.lightning import LightningCoordinates as LightningCoordinates
    from mutransfer.integrations.probe import CoordinateProbe as CoordinateProbe

_HOMES = {
    "CoordinateProbe": "mutransfer.integrations.probe",
    "HuggingFaceCoordinates": "mutransfer.integrations.huggingface",
    "LightningCoordinates": "mutransfer.integrations.lightning",
}

__all__ = ["CoordinateProbe", "HuggingFaceCoordinates", "LightningCoordinates"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'mutransfer.integrations' has no attribute {name!r}")
    return pkgutil.resolve_name(f"{home}:{name}")


def __dir__() -> list[str]:
    return __all__
