"""From the losses of a grid to the verdict: where each optimum lies, how far it moves, what that costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mutransfer.verification.optimum import find_optimum, percentiles
from mutransfer.verification.transfer_grid import GridValue, Key, TransferGrid
from mutransfer.verification.transfer_points import Point, whole_values
from mutransfer.verification.transfer_verdict import (
    DriftTooLarge,
    IntervalTooWide,
    NoResult,
    NoValueTrains,
    OneSeed,
    OptimumAtEdge,
    RegretTooLarge,
    SizeResult,
    State,
    TooFewValues,
    TransferCheck,
    TransferReason,
    TransferVerdict,
)
from mutransfer.verification.wider import WidthCurve, compare, read_curve


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


def size_results(
    grid: TransferGrid, points: Mapping[Key, Point], name: str, values: Sequence[GridValue]
) -> list[SizeResult]:
    """Losses and optimum of every size over these values."""
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


def is_named(grid: TransferGrid, points: Mapping[Key, Point], name: str, value: GridValue) -> bool:
    """Whether this call or an earlier one named the value."""
    return value in grid.values or points[(name, grid.sizes[0], grid.seeds[0], value)].asked


def _judge_one(grid: TransferGrid, points: Mapping[Key, Point], name: str, tolerance: float) -> TransferVerdict:
    values = whole_values(grid, points, name)
    further = [value for value in values if value not in grid.values]
    earlier = tuple(value for value in further if is_named(grid, points, name, value))
    sizes = size_results(grid, points, name, values)
    base, largest = sizes[0], sizes[-1]
    transferred = None if base.best is None else base.values[base.best]
    regret, error = _regret(base, largest)
    drift, interval, farthest = _drift(sizes)
    reasons: list[TransferReason] = []
    doubts = _doubts(grid, sizes)
    if doubts or regret is None:
        state: State = "undecided"
        reasons += doubts or [NoResult(largest.size, transferred)]
    else:
        if drift is not None and abs(drift) > tolerance:
            reasons.append(DriftTooLarge(drift, tolerance))
        if regret > 2 * (error or 0.0):
            reasons.append(RegretTooLarge(largest.size, regret, error))
        state = "failed" if reasons else "passed"
        if state == "passed" and interval is not None and max(map(abs, interval)) > tolerance:
            state = "undecided"
            reasons.append(IntervalTooWide(*interval, tolerance))
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


def _doubts(grid: TransferGrid, sizes: Sequence[SizeResult]) -> list[TransferReason]:
    """Why nothing can be said."""
    found: list[TransferReason] = [OneSeed()] if len(grid.seeds) < 2 else []
    for one in sizes:
        if one.best is None:
            found.append(NoValueTrains(one.size))
        elif grid.numeric and one.optimum is None:
            lost = int(np.isnan(one.losses).any(axis=1).sum())
            found.append(TooFewValues(one.size, len(one.values) - lost))
        elif one.optimum is not None and one.optimum.edge is not None:
            certain = one.optimum.index in (0, len(one.values) - 1)
            found.append(OptimumAtEdge(one.size, one.optimum.edge, certain, one.values[0], one.values[-1]))
    return found


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
