"""What a transfer check says, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mutransfer.verification.transfer_grid import GridValue, TransferGrid

if TYPE_CHECKING:
    from mutransfer.verification.transfer_check import SizeResult, TransferCheck, TransferVerdict

_SAYS = {"passed": "transfers", "failed": "does not transfer", "undecided": "undecided"}


def sentences(check: TransferCheck) -> tuple[str, ...]:
    """The verdict, its figures, and what to think of the control."""
    grid, judged, control = check.grid, check.judged, check.control
    found = [
        f"{judged.parametrization}: {grid.hparam} {_SAYS[judged.state]} across {grid.axis} "
        f"{grid.sizes[0]} to {grid.sizes[-1]}" + (f": {'; '.join(judged.reasons)}." if judged.reasons else ".")
    ]
    found += _figures(check, judged)
    found += _of_earlier_calls(check)
    if control is None:
        found.append("No control was run, so nothing shows that this check can fail.")
        return tuple(found)
    if check.has_power:
        why = control.reasons or ("it moves",)
        found.append(f"Control {control.parametrization}: does not transfer, as it should not: {'; '.join(why)}.")
    elif control.state == "undecided":
        shows = " Until it fails, this check has no power and does not count as passed."
        found.append(
            f"Control {control.parametrization}: undecided: {'; '.join(control.reasons)}."
            + (shows if judged.state == "passed" else "")
        )
    else:
        found.append(
            f"Control {control.parametrization}: passes too, so this check cannot tell right from wrong here; try more "
            "sizes, more steps or a finer grid."
        )
    return (*found, *_figures(check, control))


def _of_earlier_calls(check: TransferCheck) -> list[str]:
    """What of the folder counts beyond this call's values, and what does not."""
    found = []
    for verdict in check.verdicts.values():
        name, hparam, axis = verdict.parametrization, check.grid.hparam, check.grid.axis
        if verdict.earlier:
            found.append(f"{name}: {hparam} {_listed(verdict.earlier)} of earlier calls count too.")
        if verdict.left_out:
            found.append(
                f"{name}: {hparam} {_listed(verdict.left_out)} of earlier calls do not count, having not been trained "
                f"at every {axis} with every seed of this one; name them too, and what they lack is trained."
            )
    return found


def _listed(values: Sequence[GridValue]) -> str:
    return ", ".join(map(number, values))


def doubts(grid: TransferGrid, sizes: Sequence[SizeResult]) -> list[str]:
    """Why nothing can be said."""
    found = []
    if len(grid.seeds) < 2:
        found.append("one seed shows no noise; use --seeds 2 or more")
    for one in sizes:
        lost = int(np.isnan(one.losses).any(axis=1).sum())
        if one.best is None:
            found.append(f"at {grid.axis} {one.size} every value diverged or gave no result")
        elif grid.numeric and one.optimum is None:
            found.append(f"at {grid.axis} {one.size} too few values gave a result ({len(one.values) - lost})")
        elif one.optimum is not None and one.optimum.edge is not None:
            index = one.optimum.index
            end = {"lower": "lower end", "upper": "upper end", "both": "ends"}[one.optimum.edge]
            how = "lies" if index in (0, len(one.values) - 1) else "may lie, as far as seed noise tells,"
            limits = f"{number(one.values[0])} to {number(one.values[-1])}"
            found.append(f"at {grid.axis} {one.size} the optimum {how} at the {end} of the grid ({limits})")
    return found


def wide_interval(interval: tuple[float, float], tolerance: float) -> str:
    """Why a drift within the tolerance settles nothing."""
    low, high = interval
    return (
        f"the drift's 95 % interval, {low:+.2f} to {high:+.2f} octaves, reaches beyond the {tolerance:g} allowed: more "
        "--seeds would settle it"
    )


def regret(value: float, error: float | None, size: int, grid: TransferGrid) -> str:
    """The regret of a failed check."""
    if math.isinf(value):
        return f"{grid.axis} {size} diverges with the base's best {grid.hparam}"
    noise = "" if error is None else f", more than twice its standard error {error:.4f}"
    return f"the base's best {grid.hparam} costs {grid.axis} {size} {value:.4f} nats{noise}"


def number(value: GridValue | None) -> str:
    """A value with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figures(check: TransferCheck, one: TransferVerdict) -> list[str]:
    grid, found = check.grid, []
    if one.drift is not None:
        text = f"{one.parametrization}: drift {one.drift:+.2f} octaves ({one.drift / grid.step:+.2f} steps of the grid"
        if one.drift_interval is not None:
            low, high = one.drift_interval
            text += f", 95 % interval {low:+.2f} to {high:+.2f}"
        text += f"); allowed {check.tolerance:g}"
        found.append(
            text + ("" if one.largest_drift is None else f"; of all sizes at most {one.largest_drift:+.2f}") + "."
        )
    if one.regret is not None and math.isfinite(one.regret):
        error = "" if one.regret_error is None else f" ± {one.regret_error:.4f} (standard error)"
        found.append(
            f"{one.parametrization}: zero-shot regret at {grid.axis} {grid.sizes[-1]} {one.regret:.4f}{error} nats, "
            f"with {grid.hparam} {number(one.transferred)}."
        )
    if one.comparisons:
        worse = [c for c in one.comparisons if not c.better]
        shares = ", ".join(f"{c.larger}: {c.share:.0%}" for c in one.comparisons)
        claim = "larger is better throughout training" if not worse else "larger is not always better"
        found.append(f"{one.parametrization}: {claim} (share of steps, each size against the next smaller: {shares}).")
    return found
