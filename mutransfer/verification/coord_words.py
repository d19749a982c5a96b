"""What a coordinate check says, in sentences. It reads values; no code reads its sentences."""

from __future__ import annotations

from collections.abc import Sequence

from mutransfer.verification.reason import BadSlope, Cause, DoesNotGrow, Hint, NeverMoves, NotOptimized, Reason
from mutransfer.verification.verdict import ModuleVerdict

_QUANTITIES = {"size": "size at init", "change": "change since init", "update": "own update"}
_CONTROLS = {
    "sp": "the standard parametrization, PyTorch's default",
    "ntk": "the kernel regime, where features stop moving",
    "interpolated": "a point between the standard parametrization and µP",
}
_GRADIENT = "the gradient of the loss grows with width: is the readout multiplier 1/m_in missing?"
_CAUSES = {
    Cause.NOT_OPTIMIZED: "make the optimizer from all parameters: the missing ones stay at their initial values",
    Cause.DIVERGES: "training diverges: an lr or a size grows with width, or the lr is too large at every width",
    Cause.NOTHING_MOVES: "nothing before it is trained: its gradient is zero or stopped, or its lr is zero",
    Cause.DEPTH_RULE: "residual branches are not multiplied by 1/m_L, or lrs do not follow depth as that multiplier "
    "needs. Without a depth rule (rules.depth, for residual models) this failure is expected",
    Cause.ATTENTION_ROOT: "the attention scale is 1/√head_dim instead of 1/head_dim, and head_dim grows: give the "
    "attention module an int head_dim and a buffer attention_scale, which the plan sets, or multiply q·k by "
    "mutransfer.attention_scale(head_dim, base_head_dim)",
    Cause.ATTENTION_LR: "an lr of query or key, or the attention scale, grows with width",
    Cause.ATTENTION_INIT: "queries and keys grow with width at init, or q·k is not scaled by 1/head_dim",
    Cause.ATTENTION_TWICE: "the attention scale shrinks faster than 1/head_dim: is it applied twice?",
    Cause.READOUT_LR_TWICE: "the readout's lr is multiplied by m_in twice",
    Cause.READOUT_MULTIPLIER: "the readout multiplier 1/m_in is missing",
    Cause.READOUT_MULTIPLIER_AT_INIT: "the readout multiplier 1/m_in is missing, and its initial std is not 0",
    Cause.READOUT_TWICE_AT_INIT: "the readout multiplier 1/m_in is applied twice, or the initial std shrinks as well",
    Cause.READOUT_LR_DIVIDED: "the readout's lr is divided by m_in although its multiplier does that already",
    Cause.READOUT_LR_SGD: "the readout's lr is not multiplied by m_in, as SGD needs with the multiplier 1/m_in",
    Cause.READOUT_TWICE: "the readout multiplier 1/m_in is applied twice",
    Cause.HIDDEN_STD_LARGE: "the initial std of a hidden weight is not divided by √m_in",
    Cause.HIDDEN_STD_SMALL: "the initial std of a hidden weight is divided by more than √m_in",
    Cause.HIDDEN_LR: "the lr of a hidden weight is not divided by m_in",
    Cause.GRADIENT_GROWS: _GRADIENT,
    Cause.HIDDEN_LR_GROWS: "the lr of a hidden weight grows with width; for SGD it is η·m_out/m_in",
    Cause.HIDDEN_LR_DIVIDED: "the lr of a hidden weight is divided by more than m_in, or ε is too large for its "
    "gradients",
    Cause.HIDDEN_LR_SHRINKS: "the lr of a hidden weight shrinks with width; for SGD it is η·m_out/m_in",
    Cause.INPUT_STD_GROWS: "the initial std of an input weight grows with width",
    Cause.INPUT_STD_SHRINKS: "the initial std of an input weight (embedding, first layer) shrinks with width like a "
    "hidden weight's: its fan-in does not grow, so its std stays the same",
    Cause.INPUT_LR_DIVIDED: "the lr of an input weight (embedding, first layer) is divided like a hidden weight's: its "
    "fan-in does not grow, so its lr stays η",
    Cause.INPUT_LR_GROWS: "the lr of an input weight (embedding, first layer) grows with width",
    Cause.INPUT_LR_SGD: "the lr of an input weight is not multiplied by m_out, as SGD needs",
    Cause.INPUT_LR_FAST: "the lr of an input weight grows faster than m_out",
    Cause.VECTOR_INIT: "the initial value of a gain or bias follows width",
    Cause.VECTOR_LR_GROWS: "the lr of a gain or bias grows with width; for Adam it stays η",
    Cause.VECTOR_LR_SHRINKS: "the lr of a gain or bias shrinks with width; for Adam it stays η",
    Cause.VECTOR_LR_FAST: "the lr of a gain or bias grows faster than m_out; for SGD it is η·m_out",
    Cause.VECTOR_LR_SLOW: "the lr of a gain or bias grows more slowly than m_out; for SGD it is η·m_out",
    Cause.GIVEN_INPUT: "lr and initial std of its weight follow width as its role asks and are not the cause: what the "
    "module is given follows width, or a factor in its forward pass does, or the gradient that reaches it",
    Cause.FORWARD_FACTOR: "the module has no weight of its own and no module before it fails: a factor in its forward "
    "pass follows width",
}


def reason(one: Reason) -> str:
    """What failed."""
    if isinstance(one, NotOptimized):
        return f"the optimizer's groups lack {', '.join(one.parameters)}"
    if isinstance(one, DoesNotGrow):
        return f"its output is {'×'.join(map(str, one.shape))} at every width, although it is inside the network"
    what = _QUANTITIES[one.quantity]
    if isinstance(one, NeverMoves):
        return f"{what} is zero although trainable parameters act on it"
    if isinstance(one, BadSlope):
        if one.allowed[1] < 0:
            return (
                f"{what} follows {one.axis}^{one.slope.value:.2f}, but has to shrink like {one.axis}^-0.5 where heads "
                "widen"
            )
        verb = "grows" if one.slope.value > 0 else "shrinks"
        return f"{what} {verb} like {one.axis}^{one.slope.value:.2f}"
    return f"{what} is {'zero' if one.finite else 'not finite'} at {one.axis} {', '.join(map(str, one.sizes))}"


def hint(one: Hint) -> str:
    """The likely cause, what to do, and what was measured of the weight."""
    measured = [
        f"{what} ∝ width^{exponent:.2f}"
        for what, exponent in (("lr", one.lr), ("initial std", one.std))
        if exponent is not None
    ]
    return _cause(one) + (f" (measured of its weight: {', '.join(measured)})" if measured else "")


def sentence(
    outcome: str,
    axis: str,
    sizes: Sequence[int],
    modules: Sequence[ModuleVerdict],
    control: Sequence[ModuleVerdict] | None,
    culprit: str | None,
) -> str:
    """The verdict on the whole check."""
    span = f"{axis} {sizes[0]} to {sizes[-1]}"
    if outcome == "passed":
        fails = "" if control is None else f"; the control sp fails in {_count_failed(control)}"
        return f"passed: all {len(modules)} modules keep their size and change over {span}{fails}"
    if outcome == "no power":
        return (
            f"no power: the control sp does not fail over {span} either. Take more steps, a larger lr or a wider range "
            "of sizes"
        )
    reasons = next(one.reasons for one in modules if one.module == culprit)
    return f"failed in {_count_failed(modules)}, first {culprit}: {'; '.join(map(reason, reasons))}"


def _cause(one: Hint) -> str:
    if one.cause == Cause.CONTROL:
        return (
            f"parametrization {one.parametrization} is {_CONTROLS[one.parametrization]}. It is a control and is "
            "expected to fail; parametrization mup has to pass"
        )
    if one.cause == Cause.SMALL_SLOPE:
        return (
            f"a broken rule gives a slope of 0.5 or more, and this one is {abs(one.slope or 0.0):.2f}. The smallest "
            "sizes may be too small, or the lr too large: check larger sizes, or use a smaller lr"
        )
    if one.cause == Cause.FIXED_SIZE:
        role = "" if one.weight is None else f', and say that it is not a readout: roles: {{"{one.weight}": output}}'
        return (
            f"a size in {one.module} is a number where it should be the width or a multiple of it. If it is meant not "
            f"to grow, allow it by name (finite){role}"
        )
    return _CAUSES[one.cause]


def _count_failed(modules: Sequence[ModuleVerdict]) -> str:
    return f"{sum(one.outcome == 'fail' for one in modules)} of {len(modules)} modules"
