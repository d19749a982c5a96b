"""A run's config in the words of other trainers, with what each of them does differently. One format, one file."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from mutransfer.config.schema import RunConfig
from mutransfer.errors import UsageError
from mutransfer.transfer.export.base import Export

# name: module with a function `export(config, *, force)`
FORMATS = {
    "json": "mutransfer.transfer.export.plain",
    "megatron": "mutransfer.transfer.export.megatron",
    "nanogpt-mup": "mutransfer.transfer.export.nanogpt_mup",
}


def export_config(config: RunConfig, name: str, *, force: bool = False) -> Export:
    """`config` for the trainer `name`.

    Args:
        force: write also where the trainer builds another model; the notes say in what it differs.

    Raises:
        UsageError: there is no such format, or it has no words for something in the config.
    """
    if name not in FORMATS:
        raise UsageError(f"--format {name}: the formats are {', '.join(FORMATS)}")
    function: Callable[..., Export] = importlib.import_module(FORMATS[name]).export
    return function(config, force=force)
