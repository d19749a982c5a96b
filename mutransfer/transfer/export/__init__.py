"""A run's config in the words of other trainers, with what each of them does differently. One format, one file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mutransfer.config.schema import RunConfig
from mutransfer.registry import Registry
from mutransfer.transfer.export.base import Export


def _require(name: str, found: Any) -> None:
    if not callable(found):
        raise TypeError("it must be a function export(config, *, force)")


EXPORTS: Registry[Callable[..., Export]] = Registry(
    "export format",
    group="mutransfer.exports",
    require=_require,
    built_in={
        "json": "mutransfer.transfer.export.plain:export",
        "megatron": "mutransfer.transfer.export.megatron:export",
        "nanogpt-mup": "mutransfer.transfer.export.nanogpt_mup:export",
    },
)


def export_config(config: RunConfig, name: str, *, force: bool = False) -> Export:
    """`config` in the words of the trainer `name`, by a function `export(config, *, force)`.

    Args:
        force: write also where the trainer builds another model; the notes say how it differs.

    Raises:
        UsageError: there is no such format, or it cannot express something in the config.
    """
    return EXPORTS.load(name)(config, force=force)
