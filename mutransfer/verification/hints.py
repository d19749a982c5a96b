"""From what failed to which rule, broken, would look like that: likely causes, never certain ones.

Each line answers to a role (of the failing module's weight), to what fails (its size at init or its change), to
the sign of the slope and, where the optimizer or the initial weights say more, to the exponents measured there.
"""

from __future__ import annotations

from mutransfer.verification.coordinates import Measurements, ParameterFacts
from mutransfer.verification.verdict import SMALLEST_FAULT, ModuleVerdict

_NEAR = 0.25
# Parametrizations that are there to be compared with, by what they are.
_CONTROLS = {
    "sp": "the standard parametrization, PyTorch's way",
    "ntk": "the kernel regime, where features stop moving",
    "interpolated": "a point between the standard parametrization and µP",
}


def hint_for(culprit: ModuleVerdict, measured: Measurements, *, adam: bool) -> str:
    """The likely cause of the first failure, with what was measured of its weight.

    Args:
        culprit: as `first_failure` gives it.
        adam: whether the optimizer is of Adam's family.
    """
    if culprit.first_step < 0:
        return _structural(culprit, measured)
    if not any("slope" in one or "like" in one for one in culprit.reasons):
        return _without_slope(culprit)
    facts = _own_facts(culprit, measured)
    if measured.parametrization in _CONTROLS and measured.axis == "width":
        return (
            f"parametrization {measured.parametrization} is {_CONTROLS[measured.parametrization]}: it is there as a "
            "control, and is expected to fail; it is parametrization mup that has to pass"
        ) + _measured(facts)
    if measured.axis == "depth":
        return (
            "over depth: residual branches are not multiplied by 1/m_L, or lrs do not follow depth as that asks for; "
            "without a depth rule (rules.depth, for residual models) this is to be expected"
        )
    of_size = culprit.first_step == 0
    slope = culprit.size if of_size else culprit.change
    if not of_size and not any(reason.startswith("change") for reason in culprit.reasons):
        slope = culprit.update
    small = slope is not None and abs(slope.value) < SMALLEST_FAULT / 2
    if slope is not None and small and not (culprit.kind == "attention logits" and slope.value > 0):
        return (
            f"{abs(slope.value):.2f} is less than a broken rule gives (0.5 or more): rather the smallest sizes are too "
            "small for a limit, or the lr is too large; check from wider ones, or with a smaller lr"
        ) + _measured(facts)
    up = slope is not None and slope.value > 0
    if culprit.kind == "attention logits":
        text = _attention(culprit, measured, of_size=of_size, up=up)
    elif culprit.kind == "readout" or culprit.role == "output":
        text = _readout(facts, of_size=of_size, up=up, adam=adam)
    elif culprit.role == "hidden":
        text = _hidden(facts, of_size=of_size, up=up, adam=adam)
    elif culprit.role == "input":
        text = _input(facts, of_size=of_size, up=up, adam=adam)
    elif culprit.role in ("vector", "scalar"):
        text = _vector(of_size=of_size, up=up, adam=adam)
    else:
        text = "it has no weight of its own and no module before it fails: a factor in its forward pass follows width"
    return text + _measured(facts)


def _structural(culprit: ModuleVerdict, measured: Measurements) -> str:
    if "lack" in culprit.reasons[0]:
        return "make the optimizer from all parameters: those it lacks stay at their initial values"
    own = measured.modules[culprit.module].own_name
    role = f', and say that it is no readout: roles: {{"{own}.weight": hidden}}' if culprit.role == "output" else ""
    return (
        f"a size in {culprit.module} is a number where it should be the width, or a multiple of it; if it is not to "
        f"grow, allow it by name (finite){role}"
    )


def _without_slope(culprit: ModuleVerdict) -> str:
    if "not finite" in culprit.reasons[0]:
        return "training diverges there: an lr or a size grows with width, or the lr is too large at every width"
    return "nothing it depends on moves: gradients are zero or stopped before it, or its lr is zero"


def _attention(culprit: ModuleVerdict, measured: Measurements, *, of_size: bool, up: bool) -> str:
    shapes = measured.modules[culprit.module].shapes
    heads_fixed = len({shape[-3] for shape in shapes}) == 1
    if up and not of_size and heads_fixed:
        return (
            "attention scale is 1/√head_dim instead of 1/head_dim, and head_dim grows: give the attention module an "
            "int head_dim and a buffer attention_scale, which the plan sets, or multiply q·k by "
            "mutransfer.attention_scale(head_dim, base_head_dim)"
        )
    if up and not of_size:
        return "an lr of query or key, or the attention scale, grows with width"
    if up:
        return "queries and keys grow with width at init, or q·k is not scaled by 1/head_dim"
    return "the attention scale shrinks faster than 1/head_dim: is it applied twice?"


def _readout(facts: ParameterFacts | None, *, of_size: bool, up: bool, adam: bool) -> str:
    lr = None if facts is None else facts.lr
    if up:
        if not adam and _near(lr, 2):
            return "the readout's lr grows with width twice over"
        return "the readout multiplier 1/m_in is missing" + (", and its initial std is not 0" if of_size else "")
    if of_size:
        return "the readout multiplier 1/m_in is applied twice, or comes on top of an initial std that shrinks"
    if adam and lr is not None and lr < -_NEAR:
        return "the readout's lr is divided by m_in although its multiplier does that already"
    if not adam and _near(lr, 0):
        return "the readout's lr is not multiplied by m_in, as SGD needs under the multiplier 1/m_in"
    return "the readout multiplier 1/m_in is applied twice"


def _hidden(facts: ParameterFacts | None, *, of_size: bool, up: bool, adam: bool) -> str:
    lr = None if facts is None else facts.lr
    if of_size:
        return (
            "the initial std of a hidden weight is not divided by √m_in"
            if up
            else "the initial std of a hidden weight is divided by more than √m_in"
        )
    if up and adam:
        return "the lr of a hidden weight is not divided by m_in"
    if up and _near(lr, 0):
        return "the gradient that comes back grows with width: is the readout multiplier 1/m_in missing?"
    if up:
        return "the lr of a hidden weight grows with width; for SGD it is η·m_out/m_in"
    if adam:
        return "the lr of a hidden weight is divided by more than m_in, or ε is too large for its gradients"
    return "the lr of a hidden weight shrinks with width; for SGD it is η·m_out/m_in"


def _input(facts: ParameterFacts | None, *, of_size: bool, up: bool, adam: bool) -> str:
    lr = None if facts is None else facts.lr
    if of_size:
        return (
            "the initial std of an input weight grows with width"
            if up
            else "the initial std of an input weight (embedding, first layer) shrinks with width like a hidden "
            "weight's: its fan-in does not grow"
        )
    if adam and not up:
        return (
            "the lr of an input weight (embedding, first layer) is divided like a hidden weight's: its fan-in does "
            "not grow, so its lr stays η"
        )
    if adam:
        return "the lr of an input weight (embedding, first layer) grows with width"
    if not up:
        return "the lr of an input weight is not multiplied by m_out, as SGD needs"
    if _near(lr, 1):
        return "the gradient that comes back grows with width: is the readout multiplier 1/m_in missing?"
    return "the lr of an input weight grows faster than m_out"


def _vector(*, of_size: bool, up: bool, adam: bool) -> str:
    if of_size:
        return "a gain or bias starts at a value that follows width"
    if adam:
        return f"the lr of a gain or bias {'grows' if up else 'shrinks'} with width; for Adam it stays η"
    return f"the lr of a gain or bias follows width by {'more' if up else 'less'} than m_out, as SGD needs"


def _own_facts(culprit: ModuleVerdict, measured: Measurements) -> ParameterFacts | None:
    own = measured.modules[culprit.module].own_name
    candidates = [facts for name, facts in measured.parameters.items() if name.rpartition(".")[0] == own]
    weight = measured.parameters.get(f"{own}.weight")
    return weight or next(iter(candidates), None)


def _measured(facts: ParameterFacts | None) -> str:
    if facts is None:
        return ""
    parts = [
        f"{what} ∝ width^{exponent:.2f}"
        for what, exponent in (("lr", facts.lr), ("initial std", facts.std))
        if exponent is not None
    ]
    return f" (measured of its weight: {', '.join(parts)})" if parts else ""


def _near(value: float | None, target: float) -> bool:
    return value is not None and abs(value - target) < _NEAR
