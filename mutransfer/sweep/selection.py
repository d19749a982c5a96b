"""The best trial of a sweep, its ties within seed noise, and warnings about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mutransfer.config.schema import RunConfig
from mutransfer.sweep.confirmation import Confirmation, Failure, Repeats, confirmation
from mutransfer.sweep.record import TrialRecord, completed
from mutransfer.sweep.space import EDGE, edge
from mutransfer.sweep.stages import finalists


@dataclass(frozen=True)
class Selection:
    """The verdict of a sweep."""

    best: TrialRecord
    ranking: tuple[TrialRecord, ...]
    """Trials that completed the last stage, best first: the confirmed ones by their mean, then the others by their only
    run, last those that gave no result with a further seed."""
    passed_over: tuple[tuple[TrialRecord, Failure], ...]
    """Trials that could have won, and the failed runs with a further seed because of which they cannot."""
    means: dict[int, float]
    """Mean objective over seeds of the confirmed trials, by number; empty until all of them are."""
    runs: int
    """Runs behind each mean."""
    seed_noise: float | None
    """Standard deviation of the objective over seeds, pooled over the confirmed trials; None without any."""
    difference_noise: float | None
    """Standard deviation of the difference of two trials' objectives with the same seed; None without any."""
    ties: tuple[int, ...]
    """Numbers of the trials that this noise cannot tell from the best."""
    warnings: tuple[str, ...]

    @property
    def median(self) -> TrialRecord:
        """The trial in the middle of the ranking (the worse one of two)."""
        return self.ranking[len(self.ranking) // 2]


def select(config: RunConfig, records: Sequence[TrialRecord], repeats: Repeats) -> Selection | None:
    """Rank the trials of the last stage; None when none completed it, or none that did gave a result with every seed.

    The best mean over seeds wins (`search.confirm`); until all runs for it are made, the best single run of a trial
    that no further run speaks against.

    With d the noise of a difference (`Confirmation.difference_noise`) and n runs each, the difference of two confirmed
    means has the standard error d/√n, and that of two single runs d. Ties are the confirmed trials whose mean, and the
    others whose only run, is within two of these of the best one's.
    """
    finished = completed(finalists(config, records))
    confirmed = confirmation(config, finished, repeats)
    ranking = sorted(finished, key=lambda record: _place(record, confirmed))
    if not ranking or ranking[0].number in confirmed.failed:
        return None
    best = ranking[0]
    warnings = _warnings(config, best, records)
    failed = [record for record in ranking if record.number in confirmed.failed]
    for record in failed:
        warnings += _passed_over(record, confirmed.failed[record.number])
    return Selection(
        best=best,
        ranking=tuple(ranking),
        passed_over=tuple((record, one) for record in failed for one in confirmed.failed[record.number]),
        means=confirmed.means,
        runs=confirmed.runs,
        seed_noise=confirmed.noise,
        difference_noise=confirmed.difference_noise,
        ties=_ties(ranking, confirmed),
        warnings=tuple(warnings),
    )


def _passed_over(record: TrialRecord, failures: Sequence[Failure]) -> list[str]:
    """The warning about a trial that could not be confirmed; a crash is not a verdict on it."""
    found = []
    if unstable := [one.seed for one in failures if not one.crashed]:
        found.append(
            f"trial {record.number} was among the best, but gave no result with seed {' and '.join(unstable)}: it may "
            "be on the edge of stability and cannot win"
        )
    if crashed := [one for one in failures if one.crashed]:
        seeds = " and ".join(one.seed for one in crashed)
        found.append(
            f"trial {record.number} ({_short(record.value)}) was among the best, but its run with seed {seeds} "
            f"crashed every time ({crashed[-1].error}). It cannot win without a mean over seeds, although it may be "
            "the best. Fix the cause, and mutransfer sweep tries it again"
        )
    return found


def _place(record: TrialRecord, confirmed: Confirmation) -> tuple[bool, bool, float, int]:
    mean = confirmed.means.get(record.number)
    score = record.score if mean is None else mean
    return record.number in confirmed.failed, mean is None, score, record.number


def _ties(ranking: Sequence[TrialRecord], confirmed: Confirmation) -> tuple[int, ...]:
    best, means = ranking[0], confirmed.means
    reach = 2.0 * (confirmed.difference_noise or 0.0)

    def tied(record: TrialRecord) -> bool:
        if record.number in means:
            return means[record.number] - means[best.number] <= reach / math.sqrt(confirmed.runs)
        return record.score - best.score <= reach

    return tuple(one.number for one in ranking[1:] if one.number not in confirmed.failed and tied(one))


def _warnings(config: RunConfig, best: TrialRecord, records: Sequence[TrialRecord]) -> list[str]:
    space = config.require_search().space
    found = []
    for name, value in best.params.items():
        distribution = space[name]
        if (end := edge(distribution, value)) is not None:
            near = f"within {EDGE:.0%} of" if distribution.bounds else "at"
            found.append(
                f"the best {name} ({_short(value)}) lies {near} the {end} end of its range: the optimum may be "
                "outside; widen the range and sweep again"
            )
    ends = [record.furthest for record in records]
    if missing := [record for record in ends if record.outcome in ("crashed", "out_of_memory")]:
        kinds = sorted({str(record.outcome).replace("_", " ") for record in missing})
        found.append(f"{len(missing)} of {len(records)} trials gave no result ({', '.join(kinds)})")
    return found


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
