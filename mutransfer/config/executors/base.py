"""Fields and abilities of every `executor:` section."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mutransfer.config.base import Section


class BaseExecutorSection(Section):
    """Where trials run. It changes no result, so a sweep may be continued with another executor.

    The abilities below are what a sweep asks for before it starts. An executor on a cluster (Slurm, Ray) whose nodes
    mount the run folder sets `answers_questions` and `can_end_jobs` as far as its connection to the nodes goes. A `Job`
    is plain data and the name of a function, so any queue can carry it.
    """

    implementation: ClassVar[str]
    """`package.module:function`, called as `function(section, threads=…, workers=…, warm_up=…)`; gives an
    `executors.base.Executor`."""
    shares_disk: ClassVar[bool] = True
    """Whether workers see the run folder: they write a trial's files there."""
    answers_questions: ClassVar[bool] = True
    """Whether a job can ask the coordinator while it runs; a pruner needs it."""
    can_end_jobs: ClassVar[bool] = True
    """Whether a job that hangs can be ended; `search.hang_after` needs it."""

    if TYPE_CHECKING:
        kind: str

    @property
    def fixed_workers(self) -> bool:
        """Whether the section gives the number of workers, so that a sweep does not measure a better one."""
        return getattr(self, "workers", None) is not None
