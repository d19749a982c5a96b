"""The params of trial k: a function of k, or drawn by Optuna's sampler from the trials before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from mutransfer.config.base import SEEDS
from mutransfer.config.search import SearchSection
from mutransfer.sweep.record import Curve, TrialRecord
from mutransfer.sweep.space import point
from mutransfer.training.folder import Outcome

STATES: dict[Outcome, TrialState] = {
    "completed": TrialState.COMPLETE,
    "diverged": TrialState.PRUNED,  # a bad point, which TPE should learn from
    "pruned": TrialState.PRUNED,
    "out_of_memory": TrialState.FAIL,
    "crashed": TrialState.FAIL,
}

Looks = Mapping[int, float]
"""`{steps done: loss}`."""


class Sampler:
    """Gives trial k the point of `space.point`, independent of other trials; never waits for the study's database."""

    def __init__(self, search: SearchSection) -> None:
        self._search = search

    def draw(self, number: int) -> dict[str, Any]:
        """Params of the next trial, whose number is one more than the last one's."""
        return point(self._search, number)

    def complete(self, number: int, params: Mapping[str, Any]) -> dict[str, Any]:
        """All params of an earlier trial that has `params` only, as a kill may have left it."""
        return {**point(self._search, number), **params}

    def learn(self, number: int, outcome: Outcome, value: float | None, looks: Looks) -> None:
        """Record how trial `number` ended; `looks` are the losses that a pruner saw."""


class TPESampler(Sampler):
    """Optuna's TPE on a copy of the study in memory."""

    def __init__(
        self,
        search: SearchSection,
        distributions: Mapping[str, BaseDistribution],
        trials: Sequence[TrialRecord],
        curves: Mapping[int, Curve],
    ) -> None:
        """`trials`: trials 0, 1, … so far."""
        super().__init__(search)
        # Its random state is not saved: the same seed again would draw the first trials again.
        seed = (search.seed + len(trials)) % SEEDS
        self._distributions = dict(distributions)
        self._storage = optuna.storages.InMemoryStorage()
        self._study = optuna.create_study(
            storage=self._storage, sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        )
        for one in trials:
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING if one.outcome is None else STATES[one.outcome],
                    value=one.value,
                    intermediate_values=dict(curves.get(one.number, Curve()).looks),
                    params=dict(one.params),
                    distributions={name: self._distributions[name] for name in one.params},
                )
            )

    def draw(self, number: int) -> dict[str, Any]:  # noqa: D102
        trial = self._study.ask()
        if trial.number != number:
            raise ValueError(f"trial {number} was asked for, but {trial.number} is the next")
        return self._suggest(trial)

    def complete(self, number: int, params: Mapping[str, Any]) -> dict[str, Any]:  # noqa: D102
        if params.keys() >= self._distributions.keys():
            return dict(params)
        return self._suggest(optuna.trial.Trial(self._study, self._id(number)))

    def learn(self, number: int, outcome: Outcome, value: float | None, looks: Looks) -> None:  # noqa: D102
        for step, loss in looks.items():
            self._storage.set_trial_intermediate_value(self._id(number), step, loss)
        self._study.tell(number, value, state=STATES[outcome])

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def _suggest(self, trial: optuna.trial.Trial) -> dict[str, Any]:
        """Draw every hparam that the trial does not have yet."""
        for name, distribution in self._distributions.items():
            if isinstance(distribution, FloatDistribution):
                trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
            elif isinstance(distribution, CategoricalDistribution):
                trial.suggest_categorical(name, distribution.choices)
        return dict(trial.params)
