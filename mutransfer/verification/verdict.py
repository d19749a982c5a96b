"""Judging: whether each module keeps its size, and its change, over all sizes; and which failure came first.

In the maximal update parametrization every size and every change is of order 1 in width (TP-V Appendix D.1, and
Appendix J.2.1 for the definition), so each slope has to lie within ± threshold. At init a readout and attention logits
are sums of uncorrelated terms, which µP scales by 1/width: they may shrink like width^-1/2 (or be zero), and must not
grow. So may what lies behind a readout inside the network, when it keeps its size once that readout is made to keep its
own. Logits of heads that widen even have to shrink: if they do not, they are divided by √head_dim.

A change has two parts: what has been learned, which has to keep its size, and the effect of random terms, which fades
like width^-1/2. So a change may shrink if the first part is clearly there (`settled_share`).

A module's change contains that of everything before it, which hides a layer that by itself stops learning as it
widens. So of layers the part of the change that their own weights made is judged too, within `UPDATE_TOLERANCE`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mutransfer.parametrization.plan import Plan, layer_of
from mutransfer.verification.activations import ATTENTION_LOGITS
from mutransfer.verification.coordinates import Measurements, ModuleFacts, Numbers
from mutransfer.verification.reason import (
    BadSlope,
    DoesNotGrow,
    NeverMoves,
    NotOptimized,
    Quantity,
    Reason,
    Unusable,
)  # fmt: skip
from mutransfer.verification.slopes import Slope, fit_slope, settled_share

ModuleKind = Literal["inner", "readout", "attention logits", "fixed"]
ModuleOutcome = Literal["pass", "fail", "unclear"]

CLT = -0.5
"""Slope of a sum of uncorrelated terms that is scaled by 1/width."""
SMALLEST_FAULT = 0.5
"""Every broken rule breaks by a power of √width at least."""
NARROW_LOGITS = 0.4
"""Thresholds by which the change of attention logits may grow in a narrow check. With a scale of 1/√head_dim it grows
by 1/2 less the drift of small heads, about 0.25: half way between that and the drift alone."""
LEAST_SHARE = 0.1
"""Of a change at the largest size, the share of what has been learned that counts as clearly there."""
LEAST_OF_A_READOUT = 0.5
"""The same of a readout, where only the noise of its own updates can. Right ones have 0.7 or
more. A multiplier that is applied twice can look like 0.2 beside a bias, whose part of the change stays."""
UPDATE_TOLERANCE = 2.5
"""Thresholds that a layer's own update may slope. It is smaller than the whole change and reaches its limit later: keys
of a gpt behind zero queries slope by -0.14 from width 32 to 512, and not at all from 128 on. Every broken rule that it
has to catch gives 1/2 or more."""


@dataclass(frozen=True)
class ModuleVerdict:
    """What the check says of one module."""

    module: str
    kind: ModuleKind
    """`inner`; `readout` (finite outputs after the last growing one); `attention logits`; `fixed` (no trainable
    parameter before it)."""
    role: str | None
    """Role of the module's own weight, where it has one."""
    outcome: ModuleOutcome
    size: Slope | None
    """Of the RMS at init; None where it is zero at every size."""
    change: Slope | None
    """Of the RMS change since init, mean of the logarithm over the last half of the steps; None where there is none."""
    update: Slope | None
    """The same of the part of the change that the module's own weights made; None for modules that are no layer."""
    size_allowed: tuple[float, float]
    change_allowed: tuple[float, float]
    update_allowed: tuple[float, float]
    reasons: tuple[Reason, ...] = ()
    """What failed."""
    first_step: float = math.inf
    """The first step at which it clearly fails: 0 is init, -1 what is wrong whatever the step."""

    @property
    def fails_clearly(self) -> bool:
        """Whether it fails by more than a slope that only noise may have put outside."""
        slopes = (
            (self.size, self.size_allowed),
            (self.change, self.change_allowed),
            (self.update, self.update_allowed),
        )
        by_slope = any(slope is not None and slope.outside(*band) for slope, band in slopes)
        return self.outcome == "fail" and (by_slope or not all(isinstance(one, BadSlope) for one in self.reasons))


def judge(
    measured: Measurements,
    *,
    threshold: float,
    plan: Plan | None = None,
    finite: tuple[str, ...] = (),
    final: bool = False,
    narrow: bool = False,
) -> tuple[ModuleVerdict, ...]:
    """The verdict on every module, in forward order.

    Args:
        threshold: largest |slope| that counts as flat.
        plan: for the roles of weights.
        finite: names of modules whose output is not to grow on purpose.
        final: decide what the intervals leave unclear: it passes when they exclude every broken rule, else by the
            slope itself.
        narrow: let the change of readouts and attention logits shrink like their size may. It is a part that stays
            and a sum of uncorrelated terms that shrinks like width^-1/2; at small widths the second is the larger.
    """
    roles, missing = _roles(plan), _missing(measured)
    depth = plan.options.depth if plan is not None and measured.axis == "depth" else None
    exponent = 0.0 if depth is None else depth.alpha - 1.0
    found, fading = [], False
    for name, facts in measured.modules.items():
        fading = fading or _fades_behind_a_readout(name, measured, threshold)
        kind = _kind(name, facts, measured)
        role = roles.get(facts.own_name)
        verdict = _judge_numbers(
            name, kind, role, measured, threshold, final=final, narrow=narrow, update_exponent=exponent, fading=fading
        )
        structural = _structural(name, facts, measured, finite, missing.get(name, []))
        if structural:
            verdict = replace(verdict, outcome="fail", reasons=(*structural, *verdict.reasons), first_step=-1.0)
        found.append(verdict)
    return tuple(found)


def first_failure(verdicts: tuple[ModuleVerdict, ...]) -> ModuleVerdict | None:
    """The culprit: the failure that comes first in time, and of these the first in forward order.

    What fails later may follow from it: forward in the same step, backward through the gradient in the next.
    """
    failed = [one for one in verdicts if one.outcome == "fail"]
    clear = [one for one in failed if one.fails_clearly]
    return min(clear or failed, key=lambda one: one.first_step, default=None)


def settled_change(values: Numbers) -> Numbers:
    """(seeds, sizes, steps + 1) → (seeds, sizes): geometric mean over the last half of the steps.

    Where any of these is zero or not finite, that value.
    """
    late = values[..., values.shape[-1] // 2 :]
    with np.errstate(divide="ignore"):
        settled: Numbers = np.exp2(np.log2(late).mean(axis=-1))
    return settled


def _judge_numbers(
    name: str,
    kind: ModuleKind,
    role: str | None,
    measured: Measurements,
    threshold: float,
    *,
    final: bool,
    narrow: bool,
    update_exponent: float,
    fading: bool,
) -> ModuleVerdict:
    values, flat = measured.values[name], (-threshold, threshold)
    place = _place_in_depth(name) if measured.axis == "depth" else "outside"
    # Over width a readout, over depth the residual stream is a sum of uncorrelated terms scaled by 1/size.
    lenient = place in ("first", "last") or (kind in ("readout", "attention logits") and measured.axis == "width")
    faded = not lenient and _fades_behind_a_readout(name, measured, threshold)
    size_allowed = (CLT - threshold, threshold) if lenient or faded else flat
    eased = faded or (kind == "readout" and fading)
    sizes = values["rms"][..., 0]
    if kind == "attention logits" and measured.held.get(name, sizes).any():
        sizes = measured.held.get(name, sizes)
        if _heads_widen(name, measured):
            size_allowed = (CLT - threshold, CLT / 2)
    # A readout that does not start at zero (a tied one never does) also moves by its initial weights times the change
    # before it, which is such a sum. The effect of its own weights is judged by the own update.
    starts = kind == "readout" and bool(sizes.any())
    change_allowed = (CLT - threshold, threshold) if (narrow and lenient) or eased or starts else flat
    if narrow and kind == "attention logits":  # they drift downwards, so that a smaller upper limit suffices
        change_allowed = (CLT - threshold, NARROW_LOGITS * threshold)
    # What a depth rule asks of each block: with α < 1 the blocks are lazy by design.
    update_expected = update_exponent if place == "inside" else 0.0
    reach = UPDATE_TOLERANCE * threshold
    update_allowed = update_expected - reach + (CLT if eased else 0.0), update_expected + reach
    tables: list[tuple[Quantity, Numbers, tuple[float, float], str | None]] = [("size", sizes, size_allowed, None)]
    if kind != "fixed" and place != "first":
        moves: tuple[tuple[Quantity, str, tuple[float, float]], ...] = (
            ("change", "change_rms", change_allowed),
            ("update", "update_rms", update_allowed),
        )
        tables += [
            (what, settled_change(values[quantity]), band, quantity)
            for what, quantity, band in moves
            if not (place == "inside" and quantity == "change_rms")
            if not _is_missing(values[quantity][..., 1:], values["rms"][..., 1:])
        ]
    slopes: dict[Quantity, Slope | None] = {}
    reasons: list[Reason] = []
    outcomes: set[ModuleOutcome] = set()
    first_step = math.inf
    for what, table, allowed, quantity in tables:
        if not table.any():
            if quantity is None:
                continue  # zero at init, so that its change tells
            outcomes.add("fail")
            reasons.append(NeverMoves(what))
            first_step = min(first_step, 0.5)
            continue
        least = LEAST_OF_A_READOUT if kind == "readout" else LEAST_SHARE
        slopes[what], outcome, reason = _judge_one(what, table, allowed, measured, least=least, final=final)
        outcomes.add(outcome)
        if outcome == "fail":
            reasons.append(reason)
            bad = 0.0 if quantity is None else _first_bad_step(values[quantity], allowed, measured)
            first_step = min(first_step, bad)
    worst: ModuleOutcome = "fail" if "fail" in outcomes else "unclear" if "unclear" in outcomes else "pass"
    return ModuleVerdict(
        module=name,
        kind=kind,
        role=role,
        outcome=worst,
        size=slopes.get("size"),
        change=slopes.get("change"),
        update=slopes.get("update"),
        size_allowed=size_allowed,
        change_allowed=change_allowed,
        update_allowed=update_allowed,
        reasons=tuple(reasons),
        first_step=first_step,
    )


def _is_missing(values: Numbers, sizes: Numbers) -> bool:
    """Whether a quantity is not there to be judged: NaN at every step, or where the module's output itself is finite
    (another shape than at init, as where tokens have gone to other experts)."""
    return bool(np.isnan(values).all() or (np.isnan(values) & np.isfinite(sizes)).any())


def _fades_behind_a_readout(name: str, measured: Measurements, threshold: float) -> bool:
    """Whether a module shrinks at init only because a readout inside the network does."""
    held, sizes = measured.held.get(name), measured.values[name]["rms"][..., 0]
    if measured.axis != "width" or held is None or not (np.isfinite(held) & (held > 0) & (sizes > 0)).all():
        return False
    kept, slope = fit_slope(measured.sizes, held), fit_slope(measured.sizes, sizes)
    return abs(kept.value) < max(threshold, -CLT / 2) and slope.value < kept.value - threshold


def _heads_widen(name: str, measured: Measurements) -> bool:
    """Whether attention has the same number of heads at every size although what it attends with grows."""
    own = name.partition(ATTENTION_LOGITS)[0]
    logits = measured.modules[name]
    inputs = [one for other, one in measured.modules.items() if other.startswith(own) and one.finished < logits.started]
    return measured.axis == "width" and not logits.grows and any(one.grows for one in inputs)


def _place_in_depth(name: str) -> Literal["outside", "inside", "first", "last"]:
    """Where a module stands over depth, which says what of it is comparable.

    The last block's output is the whole residual stream and has to keep its change. The first block's is one share of
    L, and what a block reads is the stream so far, half of it in the last of two blocks and nearly all in the last of
    32: of these only what their own weights do is judged.
    """
    *above, own = name.split(".")
    if own in ("first", "last"):
        return "first" if own == "first" else "last"
    return "inside" if {"first", "last"} & set(above) else "outside"


def _judge_one(
    what: Quantity, values: Numbers, allowed: tuple[float, float], measured: Measurements, *, least: float, final: bool
) -> tuple[Slope | None, ModuleOutcome, Reason]:
    """Slope, outcome and, of a failure, the reason for one (seeds, sizes) table."""
    usable = np.isfinite(values) & (values > 0)
    if not usable.all():
        at = tuple(size for index, size in enumerate(measured.sizes) if not usable[:, index].all())
        return None, "fail", Unusable(what, measured.axis, bool(np.isfinite(values).all()), at)
    slope = fit_slope(measured.sizes, values)
    inside, outside = slope.inside(*allowed), slope.outside(*allowed)
    if what != "size" and measured.axis == "width" and not inside and slope.value < 0 and allowed[0] > CLT:
        share = settled_share(measured.sizes, values)
        steep = slope.high < 2 * CLT + SMALLEST_FAULT / 2  # only a broken rule gives that
        inside = not steep and share.low > least and slope.high <= allowed[1]
        outside = steep or (slope.high < allowed[0] and share.high < least)
        if final:
            inside = not steep and share.value > least and slope.value <= allowed[1]
            outside = not inside
    if final and not inside and not outside:
        # Not shown to leave the band: enough, where the interval is short enough to exclude every broken rule.
        excludes = slope.inside(allowed[0] - SMALLEST_FAULT / 2, allowed[1] + SMALLEST_FAULT / 2)
        inside = excludes or allowed[0] <= slope.value <= allowed[1]
        outside = not inside
    reason = BadSlope(what, measured.axis, slope, allowed)
    return slope, "pass" if inside else "fail" if outside else "unclear", reason


def _first_bad_step(values: Numbers, allowed: tuple[float, float], measured: Measurements) -> float:
    """The first step whose change clearly fails by itself; one beyond the last where only all together do."""
    for step in range(1, values.shape[-1]):
        at = values[..., step]
        if not np.isfinite(at).all():
            return float(step)
        if (at > 0).all() and fit_slope(measured.sizes, at).outside(*allowed):
            return float(step)
    return float(values.shape[-1])


def _missing(measured: Measurements) -> dict[str, list[str]]:
    """`{module: parameters that no optimizer group has}`; of modules that were not measured, at the nearest around."""
    by_own_name = {facts.own_name: name for name, facts in measured.modules.items()}
    found: dict[str, list[str]] = {}
    for parameter in measured.not_optimized:
        owner = parameter
        while owner and owner not in by_own_name:
            owner = owner.rpartition(".")[0]
        found.setdefault(by_own_name.get(owner, next(reversed(measured.modules))), []).append(parameter)
    return found


def _structural(
    name: str, facts: ModuleFacts, measured: Measurements, finite: tuple[str, ...], missing: list[str]
) -> list[Reason]:
    """What is wrong whatever the numbers: parameters that no optimizer has, a dimension that does not grow."""
    reasons: list[Reason] = []
    if missing:
        reasons.append(NotOptimized(tuple(missing)))
    named = facts.finite or name in finite or name.removesuffix(f".{ATTENTION_LOGITS}") in finite
    if measured.axis == "width" and not named and ATTENTION_LOGITS not in name and _is_narrow(facts, measured):
        reasons.append(DoesNotGrow(tuple(facts.shapes[0][1:])))
    return reasons


def _is_narrow(facts: ModuleFacts, measured: Measurements) -> bool:
    """Whether an output that does not grow lies between outputs that do."""
    others = [one for one in measured.modules.values() if one.grows]
    after = any(one.started > facts.finished for one in others)
    before = any(one.finished < facts.started for one in others)
    return not facts.grows and facts.trainable and facts.has_weights and before and after


def _kind(name: str, facts: ModuleFacts, measured: Measurements) -> ModuleKind:
    if ATTENTION_LOGITS in name:
        return "attention logits"
    if not facts.trainable:
        return "fixed"
    if facts.grows or measured.axis != "width":
        return "inner"
    after_growth = any(one.grows and one.finished < facts.finished for one in measured.modules.values())
    return "readout" if after_growth else "inner"


def _roles(plan: Plan | None) -> Mapping[str, str]:
    """`{module: role of its weight}`, matrices before biases and gains."""
    found: dict[str, str] = {}
    for name, scaling in plan.parameters.items() if plan is not None else ():
        owner = layer_of(name)
        if owner not in found or found[owner] in ("vector", "scalar"):
            found[owner] = scaling.role
    return found
