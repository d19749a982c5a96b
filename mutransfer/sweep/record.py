"""The record of a trial in a study, and the losses that a pruner saw of it. Imports no database library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from mutransfer.config.base import MOST_TRIALS
from mutransfer.training.folder import Outcome, RunFigures


@dataclass(frozen=True)
class TrialRecord(RunFigures):
    """One trial as the study knows it; its figures have their defaults while it has not ended."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)

    number: Annotated[int, Field(ge=0)]
    params: dict[str, int | float | str | None]
    outcome: Outcome | None = None
    """None while it has not ended."""
    value: float | None = None
    """The objective; None unless completed."""
    seed: int | None = None
    error: str | None = None
    stage: int = 1
    """The stage of the sweep that gave this result."""
    longer: tuple[TrialRecord, ...] = ()
    """The same trial in the stages after, in order."""

    @property
    def score(self) -> float:
        """The objective, or infinity where there is none, so that it sorts last."""
        return math.inf if self.value is None else self.value

    @property
    def furthest(self) -> TrialRecord:
        """The trial in the last stage that has trained it."""
        return self.longer[-1] if self.longer else self

    def at(self, stage: int) -> TrialRecord:
        """The trial in a later stage (from 2), which may not have trained it yet."""
        if len(self.longer) > stage - 2:
            return self.longer[stage - 2]
        return TrialRecord(self.number, self.params, stage=stage)


class FailedRepeat(TypedDict):
    """A run with a further seed that gave no result."""

    outcome: Outcome
    error: NotRequired[str | None]


class StudyAttributes(TypedDict, total=False):
    """The data saved with a study."""

    __pydantic_config__ = ConfigDict(extra="allow", allow_inf_nan=False)  # type: ignore[misc]

    versions: dict[str, str]
    data: str
    """The data's fingerprint."""
    code: str
    """A hash of the user's own code."""
    check: str
    """What the check before the sweep said."""
    repeats: dict[str, dict[str, float | FailedRepeat]]
    """`{trial number: {seed: objective}}` of runs with further seeds."""
    packing: dict[Literal["packed", "size"], Annotated[int, Field(ge=0, le=MOST_TRIALS)]]
    threads: Annotated[int, Field(gt=0, le=MOST_TRIALS)]


@dataclass
class Curve:
    """The losses of one trial at the steps where a pruner looked at it."""

    looks: dict[int, float] = field(default_factory=dict)
    """`{steps done: loss}`."""
    rungs: dict[str, Any] = field(default_factory=dict)
    """Values that Optuna's pruner stores with the trial: its losses at rungs."""

    @property
    def last(self) -> float | None:
        """The loss at the last look, which Optuna takes as the value of a pruned trial. None where it is NaN."""
        loss = self.looks[max(self.looks)] if self.looks else math.nan
        return None if math.isnan(loss) else loss


def completed(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials with an objective, best first; ties go to the lower number."""
    usable = [record for record in records if record.value is not None]
    return sorted(usable, key=lambda record: (record.score, record.number))
