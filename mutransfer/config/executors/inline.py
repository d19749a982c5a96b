"""`executor: {kind: inline}`."""

from __future__ import annotations

from typing import Literal

from mutransfer.config.executors.base import BaseExecutorSection


class InlineSection(BaseExecutorSection):
    """One job at a time in the coordinator's own process: for debuggers and tests."""

    implementation = "mutransfer.executors.inline:build"
    can_end_jobs = False

    kind: Literal["inline"]
    """Executor kind."""
