"""Pruning: Optuna's pruners end trials that fall behind, and which ones is a function of the study alone.

Trial k is judged as if the study held the trials up to k - lag and nothing else, all of them ended. A look at a trial
that comes before those have ended waits; the trials with lower numbers wait for none with higher ones, and are always
trained first, so somebody always goes on. What is pruned then depends neither on the number of workers, nor on their
speed, nor on interruptions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from mutransfer.config.pruner import PrunerSection
from mutransfer.config.schema import RunConfig
from mutransfer.sweep.record import Curve, TrialRecord
from mutransfer.sweep.sampling import STATES
from mutransfer.training.folder import Outcome

# Hyperband deals trials to brackets by this name and their numbers.
_NAME = "mutransfer"


class Pruning:
    """Judges the trials of one sweep. Workers report losses from any thread."""

    def __init__(
        self, config: RunConfig, pruner: PrunerSection, records: Sequence[TrialRecord], curves: Mapping[int, Curve]
    ) -> None:
        """Continue from the state of a study: its trials, and the losses of ended ones that the pruner saw."""
        self._lag, self.largest_pack = pruner.lag, pruner.largest_pack
        self._pruner = optuna_pruner(pruner, config.pruning_from, config.training.steps)
        self._window = _Window()
        self._study = optuna.create_study(study_name=_NAME, storage=self._window)
        self._curves: dict[int, Curve] = {}
        self._settled = 0
        self._lock = threading.Lock()
        for one in records:
            if one.outcome is not None:
                self._curves[one.number] = curves.get(one.number, Curve())
                self.settle(one.number, one.outcome, one.value)

    def answer(self, numbers: Sequence[int]) -> Callable[[Any], list[int] | None]:
        """A job with these trials calls it with `(steps done, {position: loss})`: the positions that are pruned, or
        None when it is too early to say."""
        with self._lock:
            for number in numbers:  # the losses of an earlier attempt no longer count
                self._curves[number] = Curve()

        def judge(question: Any) -> list[int] | None:
            step, losses = question
            with self._lock:
                latest = max(numbers[position] for position in losses) - self._lag
                if latest >= self._settled:
                    return None
                return [position for position, loss in losses.items() if self._prunes(numbers[position], step, loss)]

        return judge

    def settle(self, number: int, outcome: Outcome, value: float | None) -> None:
        """Record how trial `number` ended; later ones are compared with it."""
        with self._lock:
            if outcome in ("crashed", "out_of_memory"):
                self._curves[number] = Curve()
            curve = self._curves.get(number, Curve())
            self._window.ended[number] = _frozen(number, STATES[outcome], curve, value)
            while self._settled in self._window.ended:
                self._settled += 1

    def curve(self, number: int) -> Curve:
        """The losses of a trial that the pruner saw; none for a trial without a result."""
        with self._lock:
            return self._curves.get(number, Curve())

    def apart(self, first: int, second: int) -> bool:
        """Whether the second of two trials cannot be judged before the first has ended."""
        return second - first >= self._lag

    def _prunes(self, number: int, step: int, loss: float) -> bool:
        curve = self._curves[number]
        curve.looks[step] = loss
        self._window.last = number - self._lag
        self._window.judged = _frozen(number, TrialState.RUNNING, curve, None)
        verdict = bool(self._pruner.prune(self._study, self._window.judged))
        curve.rungs = self._window.judged.system_attrs
        return verdict


class _Window(InMemoryStorage):
    """The part of the study that the pruner sees while it judges one trial."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: dict[int, FrozenTrial] = {}
        self.last = -1
        """Number of the last visible trial."""
        self.judged: FrozenTrial | None = None

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        del study_id, deepcopy
        seen = [self.ended[number] for number in range(self.last + 1)]
        return [trial for trial in seen if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if self.judged is not None and self.judged.number == trial_id:
            self.judged.system_attrs[key] = value


def optuna_pruner(pruner: PrunerSection, first: int, steps: int) -> optuna.pruners.BasePruner:
    """Optuna's object for a section; no trial is pruned before its step `first` of `steps`."""
    startup, reduction = pruner.resolved("startup"), pruner.resolved("reduction")
    if pruner.kind == "median":
        return optuna.pruners.MedianPruner(startup, first)
    if pruner.kind == "percentile":
        return optuna.pruners.PercentilePruner(pruner.resolved("percentile"), startup, first)
    if pruner.kind == "successive-halving":
        return optuna.pruners.SuccessiveHalvingPruner(first, reduction)
    return optuna.pruners.HyperbandPruner(first, steps, reduction)


def _frozen(number: int, state: TrialState, curve: Curve, value: float | None) -> FrozenTrial:
    return FrozenTrial(
        number=number, trial_id=number, state=state, value=value, datetime_start=None, datetime_complete=None,
        params={}, distributions={}, user_attrs={}, system_attrs=dict(curve.rungs),
        intermediate_values=dict(curve.looks),
    )  # fmt: skip
