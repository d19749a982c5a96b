"""The equations: how init, forward pass, lr, weight decay and ε of a parameter follow width, depth and batch.

The one place where a rule stands. Source: Yang, Hu et al. 2022, "Tensor Programs V" (arXiv 2203.03466), "TP-V",
Appendix B, Table 8 (the equivalent form that allows tied embeddings). ε follows the size of the gradient's entries,
so that Adam's update is the same as at base width: 1/m_out where the gradient passes a layer that grows, 1/m_in for a
readout, whose input carries the factor.

Every multiplier is a product of powers of

    m_in  = fan_in / base fan_in        m_out = fan_out / base fan_out        m_L = depth / base depth

and so is 1 at the base size, where every parametrization is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from mutransfer.optimizers.base import OptimizerFamily

Role = Literal["input", "hidden", "output", "vector", "scalar"]
Parametrization = Literal["mup", "sp", "ntk", "interpolated"]
Table = dict[Role, "Rule"]

ROLES: tuple[Role, ...] = ("input", "hidden", "output", "vector", "scalar")


@dataclass(frozen=True)
class Power:
    """m_in^`m_in` · m_out^`m_out`."""

    m_in: float = 0.0
    m_out: float = 0.0

    def at(self, m_in: float, m_out: float) -> float:
        """The number at given width multipliers; exact at powers of two when exponents are halves."""
        value: float = _power(m_in, self.m_in) * _power(m_out, self.m_out)
        return value

    def __mul__(self, other: Power) -> Power:
        return Power(self.m_in + other.m_in, self.m_out + other.m_out)

    def __pow__(self, exponent: float) -> Power:
        return Power(self.m_in * exponent, self.m_out * exponent)


@dataclass(frozen=True)
class Rule:
    """What one role gets, as multipliers on the values at base width."""

    init_std: Power = Power()
    forward: Power = Power()
    adam_lr: Power = Power()
    sgd_lr: Power = Power()
    muon_lr: Power = Power()
    adam_eps: Power = Power()


# Lion's update is a sign: as of Adam, its entries have one size, whatever the gradient's, and it correlates with the
# incoming activations as Adam's does (TP-V Appendix B.3; TP-IVb, arXiv 2308.01814, §2 has both as entrywise updates).
# Its column is therefore Adam's, without the rule for an ε, which it does not have.
# Muon's update has singular values of one size, whatever the gradient's; a layer's output moves by Θ(1) when they are
# √(fan_out/fan_in) (Yang, Simon, Bernstein 2023, arXiv 2310.17813, Condition 1).
MUP: Table = {
    "input": Rule(sgd_lr=Power(m_out=1), adam_eps=Power(m_out=-1)),
    "hidden": Rule(
        init_std=Power(m_in=-0.5),
        adam_lr=Power(m_in=-1),
        sgd_lr=Power(m_in=-1, m_out=1),
        muon_lr=Power(m_in=-0.5, m_out=0.5),
        adam_eps=Power(m_out=-1),
    ),
    "output": Rule(forward=Power(m_in=-1), sgd_lr=Power(m_in=1), adam_eps=Power(m_in=-1)),
    "vector": Rule(sgd_lr=Power(m_out=1), adam_eps=Power(m_out=-1)),
    "scalar": Rule(),
}

# A readout whose weight is divided by its norm: entries are 1/√fan_in whatever its std, so that √m_in is left for the
# multiplier, and what is learned in a step keeps its share of each entry.
NORMED_OUTPUT = Rule(forward=Power(m_in=-0.5), sgd_lr=Power(m_in=1), adam_eps=Power(m_in=-1))

# PyTorch's way: only the initial std knows the fan-in.
SP: Table = {
    "input": Rule(),
    "hidden": Rule(init_std=Power(m_in=-0.5)),
    "output": Rule(init_std=Power(m_in=-0.5)),
    "vector": Rule(),
    "scalar": Rule(),
}

# The kernel regime: stable at every width, and features move by 1/√m only. SGD: Jacot et al. 2018 (arXiv 1806.07572);
# Adam: the lr at which the logits, and nothing before them, move by Θ(1) (TP-IVb, arXiv 2308.01814, §2).
NTK: Table = {
    "input": Rule(adam_lr=Power(m_out=-0.5), adam_eps=Power(m_out=-0.5)),
    "hidden": Rule(forward=Power(m_in=-0.5), adam_lr=Power(m_in=-1), adam_eps=Power(m_in=-0.5, m_out=-0.5)),
    "output": Rule(forward=Power(m_in=-0.5), adam_lr=Power(m_in=-0.5), adam_eps=Power(m_in=-0.5)),
    "vector": Rule(adam_lr=Power(m_out=-0.5), adam_eps=Power(m_out=-0.5)),
    "scalar": Rule(),
}

RULES: dict[Parametrization, Table] = {"mup": MUP, "sp": SP, "ntk": NTK}


def rule_of(
    parametrization: Parametrization, role: Role, *, init: float = 1.0, lr: float = 1.0, multiplier: bool = True
) -> Rule:
    """The rule of `role`.

    Args:
        multiplier: False for the equivalent rule without a forward multiplier, for weights whose input cannot be
            multiplied.
        init: for `interpolated`: exponent of the init scaling, 0 as in `sp`, 1 as in `mup`.
        lr: for `interpolated`: exponent of the lr (and ε) scaling likewise.

    TP-V Figure 3's plane is spanned between the two without forward multipliers, where they differ in init and lr
    only: a multiplier f is the same as init f·σ, lr f·η under Adam and f²·η under SGD, ε/f (TP-V Lemma J.1).
    """
    if parametrization != "interpolated":
        rule = RULES[parametrization][role]
        return rule if multiplier else _without_multiplier(rule)
    sp, mup = (_without_multiplier(RULES[end][role]) for end in ("sp", "mup"))
    share = {"init_std": init, "adam_lr": lr, "sgd_lr": lr, "muon_lr": lr, "adam_eps": lr, "forward": 1.0}
    mixed = {}
    for field in fields(Rule):
        low, high = getattr(sp, field.name), getattr(mup, field.name)
        mixed[field.name] = low ** (1.0 - share[field.name]) * high ** share[field.name]
    return Rule(**mixed)


def _without_multiplier(rule: Rule) -> Rule:
    return Rule(
        init_std=rule.init_std * rule.forward,
        adam_lr=rule.adam_lr * rule.forward,
        sgd_lr=rule.sgd_lr * rule.forward**2,
        muon_lr=rule.muon_lr,
        adam_eps=rule.adam_eps * rule.forward**-1,
    )


@dataclass(frozen=True)
class DepthScaling:
    """CompleteP (Dey et al. 2025, arXiv 2505.01618, Table 1): rules over depth for pre-norm residual models.

    Residual branches are multiplied by m_L^-α; then a block's gradients shrink by m_L^-α, and its parameters may move
    by m_L^(α-1), so that all blocks together move the residual stream by Θ(1). α = 1 also keeps every block learning
    features of its own; α = 1/2 is the rule of depth-µP (TP-VI, arXiv 2310.02244).
    """

    multiplier: float
    """m_L."""
    alpha: float

    @property
    def branch(self) -> float:
        """Forward multiplier of each residual branch."""
        return _power(self.multiplier, -self.alpha)

    def lr(self, optimizer: OptimizerFamily) -> float:
        """lr multiplier of a block's parameters: the update is m_L^(α-1) under Adam, whatever the gradient's size;
        under SGD the gradient brings m_L^-α of it."""
        return _power(self.multiplier, 2 * self.alpha - 1 if optimizer == "sgd" else self.alpha - 1)

    @property
    def eps(self) -> float:
        """ε multiplier of a block's parameters: the size of their gradients."""
        return _power(self.multiplier, -self.alpha)


@dataclass(frozen=True)
class Multipliers:
    """The multipliers of one parameter on its values at base width."""

    init_std: float
    forward: float
    lr: float
    weight_decay: float
    eps: float


def multipliers(
    role: Role,
    m_in: float,
    m_out: float,
    *,
    optimizer: OptimizerFamily,
    rule: Rule | None = None,
    lookup_exponent: float = 0.0,
    depth: DepthScaling | None = None,
    lr_factor: float = 1.0,
) -> Multipliers:
    """Evaluate the rule of one parameter.

    Args:
        m_in: fan-in over base fan-in (1 for roles without a growing fan-in).
        m_out: fan-out over base fan-out.
        optimizer: `adam` for Adam, AdamW and Lion, `sgd` for SGD with or without momentum, `muon`.
        rule: `rule_of(parametrization, role)`; default: µP's.
        lookup_exponent: for lookup tables (embeddings): their Adam lr is further multiplied by m_out to this power.
        depth: for parameters of a residual block: the depth rule, if one is on.
        lr_factor: multiplies the lr, for the rules of batch size and horizon.

    PyTorch multiplies λ by the parameter's own lr. So that lr × λ is the same as at base size, the multiplier of
    weight decay is the reciprocal of the lr's, for every role, optimizer and rule.
    """
    rule = rule if rule is not None else MUP[role]
    lr = {"adam": rule.adam_lr, "sgd": rule.sgd_lr, "muon": rule.muon_lr}[optimizer].at(m_in, m_out)
    if lookup_exponent and optimizer == "adam":
        lr *= _power(m_out, lookup_exponent)
    lr *= lr_factor
    eps = rule.adam_eps.at(m_in, m_out) if optimizer == "adam" else 1.0
    if depth is not None:
        lr *= depth.lr(optimizer)
        eps *= depth.eps if optimizer == "adam" else 1.0
    return Multipliers(
        init_std=rule.init_std.at(m_in, m_out),
        forward=rule.forward.at(m_in, m_out),
        lr=lr,
        weight_decay=1.0 / lr,
        eps=eps,
    )


def gradient_sized(family: OptimizerFamily) -> bool:
    """Whether the size of an update is proportional to the gradient's."""
    return family == "sgd"


def torch_shape(family: OptimizerFamily, shape: tuple[int, ...], m_in: float, m_out: float) -> float:
    """What takes out the change with width of the factor √max(1, rows/columns) by which torch.optim.Muon multiplies the
    lr: the rule for width is `muon_lr`, and torch's factor would come on top of it where rows and columns grow
    unequally. 1 at base width, and of every other family."""
    if family != "muon":
        return 1.0
    ratio = shape[0] / shape[1]
    return math.sqrt(max(1.0, ratio * m_in / m_out)) / math.sqrt(max(1.0, ratio))


def attention_scale(
    head_dim: int, base_head_dim: int, *, parametrization: Parametrization = "mup", init: float = 1.0
) -> float:
    """What q·k is multiplied by before the softmax, at attention temperature 1.

    µP: √(base head_dim) / head_dim, the usual 1/√head_dim at base width (TP-V Definition 4.1). `sp` and `ntk`:
    1/√head_dim. `interpolated`: between the two as `init` says.
    """
    if parametrization == "mup":
        return math.sqrt(base_head_dim) / head_dim
    excess = _power(head_dim / base_head_dim, -init / 2) if parametrization == "interpolated" else 1.0
    return excess / math.sqrt(head_dim)


@dataclass(frozen=True)
class Options:
    """The optional rules; by default only the parametrization's own table applies."""

    weight_decay: Literal["fixed_product", "independent"] = "fixed_product"
    """`fixed_product`: lr × λ is the same as at base size. `independent`: a step decays by λ × the schedule's factor,
    whatever the lr is (Wortsman et al. 2023, arXiv 2309.14322, §3.2.2)."""
    lookup_exponent: float = 0.0
    """Power of m_out by which the Adam lr of lookup tables grows."""
    init: float = 1.0
    """Exponent of the init scaling, for `interpolated`."""
    lr: float = 1.0
    """Exponent of the lr scaling, for `interpolated`."""
    depth: DepthScaling | None = None
    lr_factor: float = 1.0
    """Multiplies every lr: the product of the rules for batch size and horizon."""
    notes: tuple[str, ...] = ()
    """The rules that are on, in words, so that none acts unseen."""


def batch_lr(kappa: float, optimizer: OptimizerFamily, exponent: float | None = None) -> float:
    """lr factor for a batch κ times the base batch: κ^½ for Adam and Muon (Malladi et al. 2022, arXiv 2205.10287,
    Definition 5.2), κ for SGD (Goyal et al. 2017, arXiv 1706.02677), or κ^`exponent`."""
    return _power(kappa, exponent if exponent is not None else 1.0 if optimizer == "sgd" else 0.5)


def horizon_lr(ratio: float, exponent: float = -0.32) -> float:
    """lr factor for a run `ratio` times as long as the base run (in steps, at equal batch): ratio^-0.32 as fitted by
    Bjorck et al. 2024 (arXiv 2409.19913) for language models under AdamW."""
    return _power(ratio, exponent)


def _power(multiplier: float, exponent: float) -> float:
    """`multiplier ** exponent` with halves through sqrt, which is exact where the root is."""
    if exponent == -0.5:
        return 1.0 / math.sqrt(multiplier)
    if exponent == 0.5:
        return math.sqrt(multiplier)
    value: float = multiplier**exponent
    return value
