"""Stages: many trials at a short horizon, the best of them again at the next, and how far a sweep is with that.

A stage's run starts from scratch and has the whole schedule of its own horizon: no run is judged by the unfinished
curve of a longer one, and no two losses of different horizons are compared. Which trials a stage trains is decided
once every trial of the one before has ended, so it depends neither on the order in which they end nor on interruptions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mutransfer.config.schema import RunConfig
from mutransfer.sweep.record import TrialRecord, completed


def horizons(config: RunConfig) -> tuple[int, ...]:
    """Training steps of each stage; of the only one where the sweep has no stages."""
    stages = config.require_search().stages or ()
    return tuple(stage.steps or config.training.steps for stage in stages) or (config.training.steps,)


def entrants(config: RunConfig, records: Sequence[TrialRecord], stage: int) -> list[TrialRecord]:
    """The trials of a stage (from 1) with their results there, by number; none before the stage is decided.

    Of the n trials of the stage before, the best ⌈keep·n⌉ go on. Those that did not complete count in n and never go
    on.
    """
    search = config.require_search()
    if stage == 1:
        return list(records)
    before = entrants(config, records, stage - 1)
    if any(record.outcome is None for record in before) or len(records) < search.trial_count:
        return []
    keep = (search.stages or ())[stage - 1].keep or 1.0
    chosen = completed(before)[: math.ceil(keep * len(before) - 1e-9)]
    by_number = {record.number: record for record in records}
    return [by_number[number].at(stage) for number in sorted(record.number for record in chosen)]


def finalists(config: RunConfig, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials of the last stage, one of which wins."""
    return entrants(config, records, len(horizons(config)))


@dataclass(frozen=True)
class Standing:
    """How far a sweep is: in its first stage that has not ended, or in its last one."""

    stage: int
    stages: int
    done: int
    """Trials of this stage that have ended."""
    total: int
    """Trials of this stage."""

    @property
    def where(self) -> str:
        """` in stage 1 of 2`; nothing where there is one stage only."""
        return f" in stage {self.stage} of {self.stages}" if self.stages > 1 else ""


def standing(config: RunConfig, records: Sequence[TrialRecord]) -> Standing:
    """The progress of the trials, without their confirmation."""
    stages = len(horizons(config))
    for stage in range(1, stages + 1):
        trials = entrants(config, records, stage)
        done = sum(record.outcome is not None for record in trials)
        total = max(config.require_search().trial_count, len(trials)) if stage == 1 else len(trials)
        if done < total:
            break
    return Standing(stage, stages, done, total)
