"""`executor: {kind: local}`."""

from __future__ import annotations

from typing import Literal

from mutransfer.config.base import Count
from mutransfer.config.executors.base import BaseExecutorSection


class LocalSection(BaseExecutorSection):
    """Worker processes on the devices of this machine."""

    implementation = "mutransfer.executors.local:build"

    kind: Literal["local"] = "local"
    """Executor kind."""
    workers: Count | None = None
    """Number of worker processes. Default: one per GPU, or one per `search.threads` cores."""
