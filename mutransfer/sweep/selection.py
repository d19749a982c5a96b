"""What came out best, what is as good within seed noise, and what may be wrong with it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mutransfer.config.base import SEEDS
from mutransfer.config.schema import RunConfig
from mutransfer.sweep.space import EDGE, edge
from mutransfer.sweep.study import TrialRecord, completed


@dataclass(frozen=True)
class Selection:
    """The verdict of a sweep."""

    best: TrialRecord
    ranking: tuple[TrialRecord, ...]
    """Completed trials, best first."""
    seed_noise: float | None
    """Standard deviation of the best trial's objective over seeds; None without repeats."""
    ties: tuple[int, ...]
    """Numbers of the trials that seed noise cannot tell from the best."""
    warnings: tuple[str, ...]

    @property
    def median(self) -> TrialRecord:
        """The trial in the middle of the ranking (the worse one of two)."""
        return self.ranking[len(self.ranking) // 2]


def select(
    config: RunConfig, records: Sequence[TrialRecord], repeats: Mapping[str, Mapping[str, float | None]]
) -> Selection | None:
    """Rank the trials; None when none completed.

    Args:
        repeats: `{trial number: {seed: objective}}` of trials trained again, None where that gave no result.

    Two single-seed losses differ by seed noise alone with a standard deviation of √2 times that of one; trials
    within two of those of the best are called ties.
    """
    ranking = completed(records)
    if not ranking:
        return None
    best = ranking[0]
    repeated = repeats.get(str(best.number), {})
    again = [value for value in repeated.values() if value is not None]
    noise = statistics.stdev([best.score, *again]) if again else None
    reach = 0.0 if noise is None else 2.0 * math.sqrt(2.0) * noise
    ties = tuple(record.number for record in ranking[1:] if record.score - best.score <= reach)
    warnings = _warnings(config, best, records)
    failed = [seed for seed, value in repeated.items() if value is None]
    if failed:
        warnings.append(
            f"the best trial gave no result with seed {' and '.join(failed)}: it may be on the edge of stability"
        )
    return Selection(best, tuple(ranking), noise, ties, tuple(warnings))


def missing_repeats(
    config: RunConfig, best: TrialRecord | None, repeats: Mapping[str, Mapping[str, float | None]]
) -> list[int]:
    """Which repeats of the best trial have not been trained yet; none across compute settings."""
    if best is None or config.require_search().across:
        return []
    have = repeats.get(str(best.number), {})
    wanted = range(1, config.require_search().repeats + 1)
    return [repeat for repeat in wanted if str(repeat_seed(config, repeat)) not in have]


def repeat_seed(config: RunConfig, repeat: int) -> int:
    """Seed of a trial (repeat 0: one for all, so that trials differ in hparams only) or of its repeat."""
    return (config.training.seed + repeat) % SEEDS


def _warnings(config: RunConfig, best: TrialRecord, records: Sequence[TrialRecord]) -> list[str]:
    space = config.require_search().space
    found = []
    for name, value in best.params.items():
        distribution = space[name]
        end = edge(distribution, value)
        if end is not None:
            near = f"within {EDGE:.0%} of" if distribution.bounds else "at"
            found.append(
                f"the best {name} ({_short(value)}) lies {near} the {end} end of its range: the optimum may be "
                "outside; widen the range and sweep again"
            )
    missing = [record for record in records if record.outcome in ("crashed", "out_of_memory")]
    if missing:
        kinds = sorted({str(record.outcome).replace("_", " ") for record in missing})
        found.append(f"{len(missing)} of {len(records)} trials gave no result ({', '.join(kinds)})")
    return found


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
