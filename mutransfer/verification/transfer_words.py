"""What a transfer check says, in sentences. It reads values; no code reads its sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mutransfer.verification.transfer_grid import GridValue, TransferGrid
from mutransfer.verification.transfer_verdict import (
    DriftTooLarge,
    IntervalTooWide,
    NoResult,
    NoValueTrains,
    OneSeed,
    OptimumAtEdge,
    RegretTooLarge,
    TooFewValues,
    TransferCheck,
    TransferReason,
    TransferVerdict,
)

_SAYS = {"passed": "transfers", "failed": "does not transfer", "undecided": "undecided"}


def sentences(check: TransferCheck) -> tuple[str, ...]:
    """The verdict, its figures, and what to think of the control."""
    grid, judged, control = check.grid, check.judged, check.control
    found = [
        f"{judged.parametrization}: {grid.hparam} {_SAYS[judged.state]} across {grid.axis} "
        f"{grid.sizes[0]} to {grid.sizes[-1]}" + (f": {_listed_reasons(judged, grid)}." if judged.reasons else ".")
    ]
    found += _figures(check, judged)
    found += _of_earlier_calls(check)
    if control is None:
        found.append("No control was run, so nothing shows that this check can fail.")
        return tuple(found)
    if check.has_power:
        why = _listed_reasons(control, grid) or "its optimum moves"
        found.append(f"Control {control.parametrization}: does not transfer, as expected: {why}.")
    elif control.state == "undecided":
        shows = " Until it fails, this check has no power and does not count as passed."
        found.append(
            f"Control {control.parametrization}: undecided: {_listed_reasons(control, grid)}."
            + (shows if judged.state == "passed" else "")
        )
    else:
        found.append(
            f"Control {control.parametrization}: passes too, so this check cannot tell right from wrong here. Try more "
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
                f"{name}: {hparam} {_listed(verdict.left_out)} of earlier calls do not count: they were not trained "
                f"at every {axis} with every seed of this call. Name them in --values to train what is missing."
            )
    return found


def _listed(values: Sequence[GridValue]) -> str:
    return ", ".join(map(number, values))


def reason(one: TransferReason, grid: TransferGrid) -> str:
    """Why a verdict is not `passed`."""
    if isinstance(one, OneSeed):
        return "one seed does not show noise; use --seeds 2 or more"
    if isinstance(one, DriftTooLarge):
        return f"the optimum moves by {one.octaves:+.2f} octaves, more than the {one.allowed:g} allowed"
    if isinstance(one, IntervalTooWide):
        return (
            f"the 95 % interval of the drift, {one.low:+.2f} to {one.high:+.2f} octaves, reaches beyond the "
            f"{one.allowed:g} allowed; use more --seeds"
        )
    return _of_size(one, grid)


def _of_size(one: NoValueTrains | TooFewValues | OptimumAtEdge | NoResult | RegretTooLarge, grid: TransferGrid) -> str:
    size = f"{grid.axis} {one.size}"
    if isinstance(one, NoValueTrains):
        return f"at {size} every value diverged or gave no result"
    if isinstance(one, TooFewValues):
        return f"at {size} too few values gave a result ({one.count})"
    if isinstance(one, OptimumAtEdge):
        end = {"lower": "lower end", "upper": "upper end", "both": "ends"}[one.edge]
        how = "lies" if one.certain else "may lie, given the noise between seeds,"
        return f"at {size} the optimum {how} at the {end} of the grid ({number(one.low)} to {number(one.high)})"
    if isinstance(one, NoResult):
        return f"{size} with {grid.hparam} {number(one.value)} gave no result"
    if math.isinf(one.nats):
        return f"{size} diverges with the base's best {grid.hparam}"
    noise = "" if one.error is None else f", more than twice its standard error {one.error:.4f}"
    return f"the base's best {grid.hparam} costs {size} {one.nats:.4f} nats{noise}"


def _listed_reasons(one: TransferVerdict, grid: TransferGrid) -> str:
    return "; ".join(reason(why, grid) for why in one.reasons)


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
