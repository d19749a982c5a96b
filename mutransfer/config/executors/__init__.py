"""The `executor:` section, one file per kind; `EXECUTORS` is their registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutransfer.config.executors.base import BaseExecutorSection
from mutransfer.config.executors.inline import InlineSection
from mutransfer.config.executors.local import LocalSection
from mutransfer.config.union import union_of
from mutransfer.registry import Registry

__all__ = ["EXECUTORS", "BaseExecutorSection", "ExecutorSection", "InlineSection", "LocalSection"]

EXECUTORS: Registry[type[BaseExecutorSection]] = Registry(
    "executor",
    group="mutransfer.executors",
    built_in={
        "local": "mutransfer.config.executors.local:LocalSection",
        "inline": "mutransfer.config.executors.inline:InlineSection",
    },
)
if TYPE_CHECKING:
    ExecutorSection = BaseExecutorSection
else:
    ExecutorSection = union_of(EXECUTORS)
