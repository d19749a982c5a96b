"""Confirmation: the top trials again with further seeds, and the noise between seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mutransfer.config.base import SEEDS
from mutransfer.config.schema import RunConfig
from mutransfer.sweep.record import TrialRecord

Repeat = float | Mapping[str, Any]
"""The objective of a trial trained again; outcome and error of one that gave none, as `Failure` has them."""
Repeats = Mapping[str, Mapping[str, Repeat]]
"""`{trial number: {seed: …}}`."""


@dataclass(frozen=True)
class Failure:
    """A run with a further seed that gave no result."""

    seed: str
    outcome: str
    error: str | None = None

    @property
    def crashed(self) -> bool:
        """Whether it crashed, which is not evidence against the trial; any other failure is."""
        return self.outcome == "crashed"


@dataclass(frozen=True)
class Confirmation:
    """The trials that may win, and the results of their runs with further seeds so far."""

    values: dict[int, list[float]] = field(default_factory=dict)
    """Objectives of each trial without a failed run, its own run first."""
    failed: dict[int, list[Failure]] = field(default_factory=dict)
    """Trials that gave no result with these seeds: they have no mean like the others' and cannot win."""
    missing: list[tuple[TrialRecord, int]] = field(default_factory=list)
    """(trial, repeat) of every run still to be made; those that failures make necessary come later."""

    @property
    def means(self) -> dict[int, float]:
        """Mean objective over seeds by trial; empty until every run is there, so that like is compared with like."""
        if self.missing:
            return {}
        return {number: statistics.fmean(values) for number, values in self.values.items()}

    @property
    def noise(self) -> float | None:
        """Standard deviation of the objective over seeds: the root of the confirmed trials' mean variance. None until
        every run is there."""
        if self.missing or not self.values:
            return None
        return math.sqrt(statistics.fmean(statistics.variance(values) for values in self.values.values()))

    @property
    def difference_noise(self) -> float | None:
        """Standard deviation of the difference of two trials with the same seed, pooled over the confirmed trials.

        All trials share their seeds, so what a seed does to all of them alike is in no difference. √2 times the
        residual of a two-way table: objective minus the trial's mean minus the seed's mean plus the mean of all, the
        sum of squares over (trials - 1)·(runs - 1). A single trial cannot tell the two parts of its noise apart, and
        √2 times the whole is taken.
        """
        if self.noise is None:
            return None
        table = list(self.values.values())
        if len(table) < 2:
            return math.sqrt(2.0) * self.noise
        trials = [statistics.fmean(row) for row in table]
        seeds = [statistics.fmean(run) for run in zip(*table, strict=True)]
        middle = statistics.fmean(trials)
        squares = sum(
            (value - trial - seed + middle) ** 2
            for row, trial in zip(table, trials, strict=True)
            for value, seed in zip(row, seeds, strict=True)
        )
        return math.sqrt(2.0 * squares / ((len(trials) - 1) * (len(seeds) - 1)))

    @property
    def runs(self) -> int:
        """Runs behind each mean."""
        return max(map(len, self.values.values()), default=0)


def confirmation(config: RunConfig, ranking: Sequence[TrialRecord], repeats: Repeats) -> Confirmation:
    """How the confirmation of the best of `ranking` (completed trials, best first) stands.

    A trial that gave no result with one of its seeds is passed over, and the next best takes its place; all its seeds
    are trained still, so that the runs made do not depend on their order.
    """
    search = config.require_search()
    found = Confirmation()
    if search.across:
        return found
    wanted = range(1, search.confirm.seeds + 1)
    for record in ranking:
        if len(found.values) == search.confirm.top:
            break
        have = repeats.get(str(record.number), {})
        seeds = {repeat: str(repeat_seed(config, repeat)) for repeat in wanted}
        found.missing.extend((record, repeat) for repeat, seed in seeds.items() if seed not in have)
        there = {seed: have[seed] for seed in seeds.values() if seed in have}
        failed = [Failure(seed, **value) for seed, value in there.items() if isinstance(value, Mapping)]
        if failed:
            found.failed[record.number] = failed
        else:
            again = (value for value in there.values() if not isinstance(value, Mapping))
            found.values[record.number] = [record.score, *again]
    return found


def without_crashes(repeats: Repeats) -> dict[str, dict[str, Repeat]]:
    """The state with which a further call of the sweep begins: crashed runs are made again."""

    def crashed(value: Repeat) -> bool:
        return isinstance(value, Mapping) and value["outcome"] == "crashed"

    return {
        number: {seed: value for seed, value in own.items() if not crashed(value)} for number, own in repeats.items()
    }


def repeat_seed(config: RunConfig, repeat: int) -> int:
    """Seed of a trial (repeat 0: one for all, so that trials differ in hparams only) or of its repeat."""
    return (config.training.seed + repeat) % SEEDS
