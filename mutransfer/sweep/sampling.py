"""The params of trial k: a function of k, or drawn by Optuna's sampler from the trials before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from mutransfer.config.base import SEEDS
from mutransfer.config.search import SearchSection
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
Told = tuple[Mapping[str, Any], Outcome | None, float | None, Looks]
"""Params, outcome, objective of a trial, and its losses that a pruner saw."""


class Sampler(Protocol):
    """Draws params; never waits for the study's database."""

    def draw(self, number: int) -> dict[str, Any]:
        """Params of the next trial, whose number is one more than the last one's."""

    def complete(self, number: int, params: Mapping[str, Any]) -> dict[str, Any]:
        """All params of an earlier trial that has `params` only, as a kill may have left it."""

    def learn(self, number: int, outcome: Outcome, value: float | None, looks: Looks) -> None:
        """Record how trial `number` ended; `looks` are the losses that a pruner saw."""


class PointSampler:
    """Gives trial k the point of `space.point`, independent of other trials."""

    def __init__(self, search: SearchSection) -> None:
        self._search = search

    def draw(self, number: int) -> dict[str, Any]:  # noqa: D102
        return point(self._search, number)

    def complete(self, number: int, params: Mapping[str, Any]) -> dict[str, Any]:  # noqa: D102
        return {**point(self._search, number), **params}

    def learn(self, number: int, outcome: Outcome, value: float | None, looks: Looks) -> None:  # noqa: D102
        pass


class TPESampler:
    """Optuna's TPE on a copy of the study in memory."""

    def __init__(
        self,
        search: SearchSection,
        distributions: Mapping[str, BaseDistribution],
        trials: Sequence[Told],
    ) -> None:
        """`trials`: trials 0, 1, … so far."""
        # Its random state is not saved: the same seed again would draw the first trials again.
        seed = (search.seed + len(trials)) % SEEDS
        self._distributions = dict(distributions)
        self._storage = optuna.storages.InMemoryStorage()
        self._study = optuna.create_study(
            storage=self._storage, sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        )
        for params, outcome, value, looks in trials:
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING if outcome is None else STATES[outcome],
                    value=value,
                    intermediate_values=dict(looks),
                    params=dict(params),
                    distributions={name: self._distributions[name] for name in params},
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


def make_sampler(
    search: SearchSection,
    distributions: Mapping[str, BaseDistribution],
    trials: Sequence[Told],
) -> Sampler:
    """The sampler that goes on after `trials`."""
    return TPESampler(search, distributions, trials) if search.sampler == "tpe" else PointSampler(search)
