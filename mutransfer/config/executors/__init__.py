"""The `executor:` section, one file per kind; `EXECUTORS` is their registry."""

from __future__ import annotations

from mutransfer.config.base import section_of
from mutransfer.config.executors.base import BaseExecutorSection
from mutransfer.config.executors.inline import InlineSection
from mutransfer.config.executors.local import LocalSection
from mutransfer.registry import Registry

__all__ = ["EXECUTORS", "BaseExecutorSection", "InlineSection", "LocalSection"]

EXECUTORS: Registry[type[BaseExecutorSection]] = Registry(
    "executor",
    group="mutransfer.executors",
    require=section_of(BaseExecutorSection),
    built_in={
        "local": "mutransfer.config.executors.local:LocalSection",
        "inline": "mutransfer.config.executors.inline:InlineSection",
    },
)
