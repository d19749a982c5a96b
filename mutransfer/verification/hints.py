"""From a failure to the broken rule that would explain it: likely causes, not certain ones.

Each branch depends on the role of the failing module's weight, on what fails (its size at init, or its change), and on
the sign of the slope. Where they say more, measured exponents of the lr and of the initial std decide.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from mutransfer.parametrization.plan import layer_of
from mutransfer.parametrization.rules import Role, rule_of
from mutransfer.verification.coordinates import Measurements, ParameterFacts
from mutransfer.verification.reason import BadSlope, Cause, DoesNotGrow, Hint, NeverMoves, NotOptimized, Unusable
from mutransfer.verification.slopes import Slope
from mutransfer.verification.verdict import SMALLEST_FAULT, ModuleVerdict

_NEAR = 0.25
_CONTROLS = ("sp", "ntk", "interpolated")
_OF_STD = {Cause.HIDDEN_STD_LARGE, Cause.HIDDEN_STD_SMALL, Cause.INPUT_STD_GROWS, Cause.INPUT_STD_SHRINKS}
_OF_LR = {
    Cause.HIDDEN_LR, Cause.HIDDEN_LR_GROWS, Cause.HIDDEN_LR_DIVIDED, Cause.HIDDEN_LR_SHRINKS,
    Cause.INPUT_LR_DIVIDED, Cause.INPUT_LR_GROWS, Cause.INPUT_LR_SGD, Cause.INPUT_LR_FAST,
}  # fmt: skip


def hint_for(culprit: ModuleVerdict, measured: Measurements, *, adam: bool) -> Hint:
    """The likely cause of the first failure, with what was measured of its weight.

    Args:
        culprit: as `first_failure` gives it.
        adam: whether the optimizer is of Adam's family.
    """
    if culprit.first_step < 0 or not any(isinstance(one, BadSlope) for one in culprit.reasons):
        return _without_slope(culprit, measured)
    facts = _own_facts(culprit, measured)
    of_size = culprit.first_step == 0
    slope = culprit.size if of_size else culprit.change
    moves = [one for one in culprit.reasons if isinstance(one, BadSlope | Unusable | NeverMoves)]
    if not of_size and not any(one.quantity == "change" for one in moves):
        slope = culprit.update
    is_control = measured.parametrization in _CONTROLS and measured.axis == "width"
    hint = Hint(
        Cause.CONTROL if is_control else _cause(culprit, measured, facts, slope, adam=adam),
        culprit.module,
        measured.parametrization,
        slope=None if slope is None else slope.value,
    )
    if facts is None or measured.axis != "width":
        return hint
    return replace(hint, lr=facts.lr, std=facts.std)


def _cause(
    culprit: ModuleVerdict,
    measured: Measurements,
    facts: ParameterFacts | None,
    slope: Slope | None,
    *,
    adam: bool,
) -> Cause:
    up = slope is not None and slope.value > 0
    of_size = culprit.first_step == 0
    if measured.axis == "depth":
        return Cause.DEPTH_RULE
    small = slope is not None and abs(slope.value) < SMALLEST_FAULT / 2
    has_to_shrink = of_size and culprit.size_allowed[1] < 0
    if small and not has_to_shrink and not (culprit.kind == "attention logits" and up):
        return Cause.SMALL_SLOPE
    if culprit.kind == "attention logits":
        return Cause.ATTENTION_ROOT if small and has_to_shrink else _attention(culprit, measured, of_size, up)
    if culprit.kind == "readout":
        return _readout(facts, of_size=of_size, up=up, adam=adam)
    if culprit.role in ("vector", "scalar"):
        return _vector(of_size=of_size, up=up, adam=adam)
    by_role = {"output": _readout, "hidden": _hidden, "input": _input}.get(culprit.role or "")
    cause = Cause.FORWARD_FACTOR if by_role is None else by_role(facts, of_size=of_size, up=up, adam=adam)
    return Cause.GIVEN_INPUT if facts is not None and _is_refuted(cause, facts, culprit, adam=adam) else cause


def _is_refuted(cause: Cause, facts: ParameterFacts, culprit: ModuleVerdict, *, adam: bool) -> bool:
    """Whether the cause blames the weight's std or lr although it was measured to be what µP has for its role."""
    if cause not in _OF_STD | _OF_LR:
        return False
    rule = rule_of("mup", cast(Role, culprit.role))
    of_lr = rule.adam_lr if adam else rule.sgd_lr
    measured, expected = (facts.std, rule.init_std) if cause in _OF_STD else (facts.lr, of_lr)
    return _near(measured, expected.m_in + expected.m_out)


def _without_slope(culprit: ModuleVerdict, measured: Measurements) -> Hint:
    """The cause of what is wrong at every size, or of a quantity that is zero or not finite."""
    first, weight = culprit.reasons[0], None
    if isinstance(first, NotOptimized):
        cause = Cause.NOT_OPTIMIZED
    elif isinstance(first, DoesNotGrow):
        cause = Cause.FIXED_SIZE
        weight = f"{measured.modules[culprit.module].own_name}.weight" if culprit.role == "output" else None
    else:
        cause = Cause.DIVERGES if isinstance(first, Unusable) and not first.finite else Cause.NOTHING_MOVES
    return Hint(cause, culprit.module, measured.parametrization, weight=weight)


def _attention(culprit: ModuleVerdict, measured: Measurements, of_size: bool, up: bool) -> Cause:
    if not up:
        return Cause.ATTENTION_TWICE
    if of_size:
        return Cause.ATTENTION_INIT
    heads_fixed = len({shape[-3] for shape in measured.modules[culprit.module].shapes}) == 1
    return Cause.ATTENTION_ROOT if heads_fixed else Cause.ATTENTION_LR


def _readout(facts: ParameterFacts | None, *, of_size: bool, up: bool, adam: bool) -> Cause:
    lr = None if facts is None else facts.lr
    if up:
        if not adam and _near(lr, 2):
            return Cause.READOUT_LR_TWICE
        return Cause.READOUT_MULTIPLIER_AT_INIT if of_size else Cause.READOUT_MULTIPLIER
    if of_size:
        return Cause.READOUT_TWICE_AT_INIT
    if adam and lr is not None and lr < -_NEAR:
        return Cause.READOUT_LR_DIVIDED
    return Cause.READOUT_LR_SGD if not adam and _near(lr, 0) else Cause.READOUT_TWICE


def _hidden(facts: ParameterFacts | None, *, of_size: bool, up: bool, adam: bool) -> Cause:
    if of_size:
        return Cause.HIDDEN_STD_LARGE if up else Cause.HIDDEN_STD_SMALL
    if up and adam:
        return Cause.HIDDEN_LR
    if up:
        return Cause.GRADIENT_GROWS if _near(None if facts is None else facts.lr, 0) else Cause.HIDDEN_LR_GROWS
    return Cause.HIDDEN_LR_DIVIDED if adam else Cause.HIDDEN_LR_SHRINKS


def _input(facts: ParameterFacts | None, *, of_size: bool, up: bool, adam: bool) -> Cause:
    if of_size:
        return Cause.INPUT_STD_GROWS if up else Cause.INPUT_STD_SHRINKS
    if adam:
        return Cause.INPUT_LR_GROWS if up else Cause.INPUT_LR_DIVIDED
    if not up:
        return Cause.INPUT_LR_SGD
    return Cause.GRADIENT_GROWS if _near(None if facts is None else facts.lr, 1) else Cause.INPUT_LR_FAST


def _vector(*, of_size: bool, up: bool, adam: bool) -> Cause:
    if of_size:
        return Cause.VECTOR_INIT
    if adam:
        return Cause.VECTOR_LR_GROWS if up else Cause.VECTOR_LR_SHRINKS
    return Cause.VECTOR_LR_FAST if up else Cause.VECTOR_LR_SLOW


def _own_facts(culprit: ModuleVerdict, measured: Measurements) -> ParameterFacts | None:
    own = measured.modules[culprit.module].own_name
    candidates = [facts for name, facts in measured.parameters.items() if layer_of(name) == own]
    weight = measured.parameters.get(f"{own}.weight")
    return weight or next(iter(candidates), None)


def _near(value: float | None, target: float) -> bool:
    return value is not None and abs(value - target) < _NEAR
