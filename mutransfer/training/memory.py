"""Checks, before anything is made, whether a model can fit into this machine's memory."""

from __future__ import annotations

import os

from mutransfer.config.schema import RunConfig
from mutransfer.errors import NothingUsable
from mutransfer.models import plan_of

_BYTES = 4 * 2
"""Of one fp32 weight and its gradient; the optimizer's state and activations come on top."""


def require_memory(config: RunConfig, device: str) -> None:
    """Raise `NothingUsable` for a model whose weights and gradients are larger than all of the machine's memory.

    For the CPU only: Linux grants memory that it does not have, and then ends this process or another one. A GPU's
    allocator refuses by itself.
    """
    if device != "cpu" or "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return
    parameters = plan_of(config).parameter_count
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if parameters * _BYTES > there:
        raise NothingUsable(
            f"{config.name}: {parameters:,} parameters at width {config.model.width} take "
            f"{parameters * _BYTES / 2**30:,.0f} GiB with their gradients alone, but this machine has "
            f"{there / 2**30:,.0f} GiB"
        )
