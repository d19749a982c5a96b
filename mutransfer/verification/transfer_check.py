"""The transfer check: does the best value found at the base size stay the best as the model grows (TP-V Fig. 3, 4)?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import pandas as pd

from mutransfer.errors import UsageError
from mutransfer.executors.base import Executor
from mutransfer.files import write_atomic, write_json
from mutransfer.sweep.dispatcher import Observer
from mutransfer.verification import transfer_json, transfer_words
from mutransfer.verification.optimum import Floats, Noise, Optimum, find_optimum, interaction_noise, percentiles
from mutransfer.verification.transfer_grid import GridValue, Key, TransferGrid
from mutransfer.verification.transfer_points import CheckFolder, Point, train_points, whole_values
from mutransfer.verification.wider import Comparison, WidthCurve, compare, read_curve

State = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True)
class SizeResult:
    """One size in one parametrization."""

    size: int
    values: tuple[GridValue, ...]
    losses: Floats
    """(values, seeds): infinite where a run diverged, NaN where one gave no result."""
    optimum: Optimum | None
    """None of names, and where fewer than three values gave a result."""

    @property
    def mean(self) -> Floats:
        """Mean over seeds, (values,)."""
        found: Floats = self.losses.mean(axis=1)
        return found

    @property
    def best(self) -> int | None:
        """Index of the value with the lowest mean loss."""
        known = np.where(np.isnan(self.mean), np.inf, self.mean)
        return int(np.argmin(known)) if np.isfinite(known).any() else None

    @property
    def noise(self) -> Noise | None:
        """Seed noise around the best value; None where it cannot be told."""
        reach = len(self.values) if isinstance(self.values[0], str) else 2
        return None if self.best is None else interaction_noise(self.losses, self.best, reach=reach)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds of the loss at the best value."""
        if self.best is None or self.losses.shape[1] < 2:
            return None
        return float(self.losses[self.best].std(ddof=1))


@dataclass(frozen=True)
class TransferVerdict:
    """How one parametrization fares."""

    parametrization: str
    state: State
    reasons: tuple[str, ...]
    """Why it failed or is undecided; empty when it passed."""
    sizes: tuple[SizeResult, ...]
    transferred: GridValue | None
    """Best value at the base size, which transfer would use."""
    drift: float | None
    """Optimum of the largest size over that of the base, in octaves; None of names and where one is unknown."""
    drift_interval: tuple[float, float] | None
    largest_drift: float | None
    """Of all sizes, the drift farthest from zero."""
    drift_at_least: float | None
    """Where an optimum lies outside the grid: so many octaves at the least."""
    regret: float | None
    """Loss of the largest size with the base's best value, minus that with its own best; infinite if it diverged."""
    regret_error: float | None
    """Standard error of the regret."""
    curves: tuple[WidthCurve, ...]
    comparisons: tuple[Comparison, ...]
    widened: bool
    """Whether values count that no call named, because an optimum lay at an end of those named."""
    earlier: tuple[GridValue, ...]
    """Values that count although this call did not name them: those of earlier calls."""
    left_out: tuple[GridValue, ...]
    """Values of earlier calls that were not trained at every size with every seed of this one, and do not count."""

    @property
    def shows_drift(self) -> bool:
        """Whether something is known to move, be it by how much it may."""
        return self.state == "failed" or (
            self.regret is not None and self.regret_error is not None and self.regret > 2 * self.regret_error
        )


@dataclass(frozen=True)
class TransferCheck:
    """The whole check."""

    grid: TransferGrid
    tolerance: float
    """In octaves."""
    verdicts: Mapping[str, TransferVerdict]
    """The parametrization that is judged first, its control after it."""
    points: tuple[Point, ...]

    @property
    def judged(self) -> TransferVerdict:
        """The verdict that counts."""
        return self.verdicts[self.grid.parametrizations[0]]

    @property
    def control(self) -> TransferVerdict | None:
        """The control's."""
        return self.verdicts[self.grid.parametrizations[1]] if len(self.grid.parametrizations) > 1 else None

    @property
    def passed(self) -> bool:
        """Whether the hparam transfers, and the control, where one was run, does not."""
        return self.judged.state == "passed" and self.has_power is not False

    @property
    def has_power(self) -> bool | None:
        """Whether the control failed, so that the check can tell right from wrong; None without a control."""
        if self.control is None:
            return None
        at_least = self.control.drift_at_least
        return self.control.shows_drift or (at_least is not None and at_least > self.tolerance)

    @property
    def words(self) -> tuple[str, ...]:
        """The verdict in sentences."""
        return transfer_words.sentences(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; what is not finite is null."""
        return transfer_json.as_dict(self)


def run_transfer_check(
    grid: TransferGrid,
    folder: CheckFolder,
    *,
    tolerance: float | None = None,
    executor: Callable[[], Executor] | None = None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TransferCheck:
    """Train the grid, widen it once where an optimum is at its edge, judge, write `verdict.json` and `points.csv`.

    What earlier calls trained in `folder` at the same sizes with the same seeds counts as if it were of the grid. A
    parametrization with an optimum at an edge is widened at all its sizes: the largest size has to be trained with the
    base's best value too, wherever that comes to lie.

    Args:
        tolerance: octaves by which the optimum may move; one step of the grid by default.

    Raises:
        UsageError: the tolerance is no number >= 0; and see `train_points`.
        ConfigError, DataError, Interrupted, NothingUsable: see `train_points`.
    """
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise UsageError(f"--tolerance {tolerance:g}: must be a number of octaves >= 0")

    def train(wanted: set[Key], *, widening: bool = False) -> dict[Key, Point]:
        return train_points(
            grid, folder, wanted, widening=widening, executor=executor, observer=observer, should_stop=should_stop
        )

    points = train(grid.keys())
    further = _further(grid, points)
    if further:
        points = train(grid.keys() | further, widening=True)
    check = judge(grid, points, tolerance=tolerance)
    write_json(folder.verdict, check.as_dict())
    columns = ["parametrization", "size", "value", "seed", "outcome", "validation_loss", "training_loss"]
    rows = [{name: getattr(one, name) for name in columns} for one in check.points]
    write_atomic(folder.points, pd.DataFrame(rows, columns=columns).to_csv(index=False))
    return check


def _further(grid: TransferGrid, points: Mapping[Key, Point]) -> set[Key]:
    """Points beyond the ends at which optima lie; a function of the values that calls named, so that a resumed or
    repeated check widens as the first one did."""
    found: set[Key] = set()
    if not grid.numeric:
        return found
    for name in grid.parametrizations:
        named = [value for value in whole_values(grid, points, name) if _is_named(grid, points, name, value)]
        edges = {one.optimum.edge for one in _size_results(grid, points, name, named) if one.optimum is not None}
        values = grid.widened(named, lower=bool(edges & {"lower", "both"}), upper=bool(edges & {"upper", "both"}))
        found |= set(product([name], grid.sizes, grid.seeds, values))
    return found


def _is_named(grid: TransferGrid, points: Mapping[Key, Point], name: str, value: GridValue) -> bool:
    """Whether this call or an earlier one named the value."""
    return value in grid.values or points[(name, grid.sizes[0], grid.seeds[0], value)].asked


def judge(grid: TransferGrid, points: Mapping[Key, Point], *, tolerance: float | None = None) -> TransferCheck:
    """What the points say."""
    allowed = grid.step if tolerance is None else tolerance
    verdicts = {name: _judge_one(grid, points, name, allowed) for name in grid.parametrizations}
    used = {(name, size.size, value) for name, one in verdicts.items() for size in one.sizes for value in size.values}
    ordered = [one for one in points.values() if (one.parametrization, one.size, one.value) in used]
    ordered.sort(key=lambda one: (one.parametrization, one.size, str(one.seed), str(one.value)))
    if grid.numeric:
        ordered.sort(key=lambda one: (one.parametrization, one.size, one.value, one.seed))
    return TransferCheck(grid, allowed, verdicts, tuple(ordered))


def _size_results(
    grid: TransferGrid, points: Mapping[Key, Point], name: str, values: Sequence[GridValue]
) -> list[SizeResult]:
    found = []
    for index, size in enumerate(grid.sizes):
        losses = np.array(
            [[points[(name, size, seed, value)].loss(grid.objective) for seed in grid.seeds] for value in values]
        )
        optimum = None
        if grid.numeric:
            optimum = find_optimum(np.log2(np.array(values, dtype=np.float64)), losses, seed=index)
        found.append(SizeResult(size, tuple(values), losses, optimum))
    return found


def _judge_one(grid: TransferGrid, points: Mapping[Key, Point], name: str, tolerance: float) -> TransferVerdict:
    values = whole_values(grid, points, name)
    further = [value for value in values if value not in grid.values]
    earlier = tuple(value for value in further if _is_named(grid, points, name, value))
    sizes = _size_results(grid, points, name, values)
    base, largest = sizes[0], sizes[-1]
    transferred = None if base.best is None else base.values[base.best]
    regret, error = _regret(base, largest)
    drift, interval, farthest = _drift(sizes)
    reasons: list[str] = []
    doubts = transfer_words.doubts(grid, sizes)
    if doubts or regret is None:
        state: State = "undecided"
        reasons += doubts or [f"{grid.axis} {largest.size} with {grid.hparam} {transferred} gave no result"]
    else:
        if drift is not None and abs(drift) > tolerance:
            reasons.append(f"the optimum moves by {drift:+.2f} octaves, more than the {tolerance:g} allowed")
        if regret > 2 * (error or 0.0):
            reasons.append(transfer_words.regret(regret, error, largest.size, grid))
        state = "failed" if reasons else "passed"
        if state == "passed" and interval is not None and max(map(abs, interval)) > tolerance:
            state = "undecided"
            reasons.append(transfer_words.wide_interval(interval, tolerance))
    curves = _curves(grid, points, name, transferred)
    warmup = 0
    if curves and transferred is not None:
        run = grid.config.at_point({grid.hparam: transferred})
        warmup = min(math.ceil(run.hparams.warmup * run.training.steps), run.training.steps - 1)
    return TransferVerdict(
        parametrization=name,
        state=state,
        reasons=tuple(reasons),
        sizes=tuple(sizes),
        transferred=transferred,
        drift=drift,
        drift_interval=interval,
        largest_drift=farthest,
        drift_at_least=_at_least(base, largest),
        regret=regret,
        regret_error=error,
        curves=curves,
        comparisons=compare(curves, warmup=warmup),
        widened=len(further) > len(earlier),
        earlier=earlier,
        left_out=tuple(sorted({key[3] for key in points if key[0] == name} - set(values), key=grid.values_order)),
    )


def _regret(base: SizeResult, largest: SizeResult) -> tuple[float | None, float | None]:
    """Zero-shot regret at the largest size and its standard error, paired over seeds.

    The error comes from the noise of all values around the largest size's best: two seeds' one difference alone
    would say little.
    """
    if base.best is None or largest.best is None:
        return None, None
    regret = float(largest.mean[base.best] - largest.mean[largest.best])
    error = largest.noise.of_difference if largest.noise is not None else None
    return (None, None) if math.isnan(regret) else (regret, error)


def _drift(sizes: list[SizeResult]) -> tuple[float | None, tuple[float, float] | None, float | None]:
    """Drift from base to largest in octaves, its interval, and the farthest drift of any size."""
    base, largest = sizes[0].optimum, sizes[-1].optimum
    if base is None or largest is None:
        return None, None, None
    interval = None
    if len(base.draws) and len(largest.draws):
        interval = percentiles(largest.draws - base.draws)
    drifts = [one.optimum.octaves - base.octaves for one in sizes[1:] if one.optimum is not None]
    return largest.octaves - base.octaves, interval, max(drifts, key=abs)


def _at_least(base: SizeResult, largest: SizeResult) -> float | None:
    """Distance between two optima of which one lies outside the grid, in octaves, as far as the grid shows it."""
    one, other = base.optimum, largest.optimum
    if one is None or other is None:
        return None
    ends = (0, len(base.values) - 1)
    outside = {optimum.index for optimum in (one, other) if optimum.index in ends}
    return abs(one.octaves - other.octaves) if outside and one.index != other.index else None


def _curves(
    grid: TransferGrid, points: Mapping[Key, Point], name: str, transferred: GridValue | None
) -> tuple[WidthCurve, ...]:
    """Training curves of every size at the transferred value; none where one is missing."""
    if transferred is None:
        return ()
    found = []
    for size in grid.sizes:
        folders = [points[(name, size, seed, transferred)].folder for seed in grid.seeds]
        curve = read_curve(size, folders, grid.config.training.steps)
        if curve is None:
            return ()
        found.append(curve)
    return tuple(found)
