"""The equations: how init, forward pass, lr, weight decay and ε of a parameter follow width.

The one place where a rule stands. Source: Yang, Hu et al. 2022, "Tensor Programs V" (arXiv 2203.03466),
Appendix B, Table 8 (the equivalent form that allows tied embeddings). ε follows the size of the gradient's entries,
so that Adam's update stays what it is at base width: 1/m_out where the loss reaches the weight through a layer that
grows, 1/m_in for a readout, whose input carries the factor.

Every multiplier is a product of powers of

    m_in  = fan_in / base fan_in        m_out = fan_out / base fan_out

and so is 1 at the base width, where `mup` and `sp` are one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Role = Literal["input", "hidden", "output", "vector", "scalar"]
Parametrization = Literal["mup", "sp"]
OptimizerFamily = Literal["adam", "sgd"]

ROLES: tuple[Role, ...] = ("input", "hidden", "output", "vector", "scalar")
FAMILIES: dict[str, OptimizerFamily] = {"adamw": "adam", "adam": "adam", "sgd": "sgd"}


@dataclass(frozen=True)
class Power:
    """m_in^`m_in` · m_out^`m_out`."""

    m_in: float = 0.0
    m_out: float = 0.0

    def at(self, m_in: float, m_out: float) -> float:
        """The number at given width multipliers; exact at powers of two when exponents are halves."""
        value: float = _power(m_in, self.m_in) * _power(m_out, self.m_out)
        return value


@dataclass(frozen=True)
class Rule:
    """What one role gets, as multipliers on the values at base width."""

    init_std: Power = Power()
    forward: Power = Power()
    adam_lr: Power = Power()
    sgd_lr: Power = Power()
    adam_eps: Power = Power()


MUP: dict[Role, Rule] = {
    "input": Rule(sgd_lr=Power(m_out=1), adam_eps=Power(m_out=-1)),
    "hidden": Rule(
        init_std=Power(m_in=-0.5),
        adam_lr=Power(m_in=-1),
        sgd_lr=Power(m_in=-1, m_out=1),
        adam_eps=Power(m_out=-1),
    ),
    "output": Rule(forward=Power(m_in=-1), sgd_lr=Power(m_in=1), adam_eps=Power(m_in=-1)),
    "vector": Rule(sgd_lr=Power(m_out=1), adam_eps=Power(m_out=-1)),
    "scalar": Rule(),
}

# PyTorch's way: only the initial std knows the fan-in.
SP: dict[Role, Rule] = {
    "input": Rule(),
    "hidden": Rule(init_std=Power(m_in=-0.5)),
    "output": Rule(init_std=Power(m_in=-0.5)),
    "vector": Rule(),
    "scalar": Rule(),
}

RULES: dict[Parametrization, dict[Role, Rule]] = {"mup": MUP, "sp": SP}


@dataclass(frozen=True)
class Multipliers:
    """The numbers of one parameter: what its values at base width are multiplied by."""

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
    parametrization: Parametrization = "mup",
) -> Multipliers:
    """Evaluate the rule of `role`.

    Args:
        m_in: fan-in over base fan-in (1 for roles without a growing fan-in).
        m_out: fan-out over base fan-out.
        optimizer: `adam` for Adam and AdamW, `sgd` for SGD with or without momentum.

    Weight decay is what PyTorch multiplies by the parameter's own lr, so λ × lr multiplier × weight decay
    multiplier has to stay λ: it is the reciprocal of the lr multiplier, for every role and optimizer.
    """
    rule = RULES[parametrization][role]
    lr = (rule.adam_lr if optimizer == "adam" else rule.sgd_lr).at(m_in, m_out)
    return Multipliers(
        init_std=rule.init_std.at(m_in, m_out),
        forward=rule.forward.at(m_in, m_out),
        lr=lr,
        weight_decay=1.0 / lr,
        eps=rule.adam_eps.at(m_in, m_out) if optimizer == "adam" else 1.0,
    )


def attention_scale(head_dim: int, base_head_dim: int, *, parametrization: Parametrization = "mup") -> float:
    """What q·k is multiplied by before the softmax, at attention temperature 1.

    µP: √(base head_dim) / head_dim, the usual 1/√head_dim at base width (TP-V Definition 4.1). `sp`: 1/√head_dim.
    """
    if parametrization == "sp":
        return 1.0 / math.sqrt(head_dim)
    return math.sqrt(base_head_dim) / head_dim


def _power(multiplier: float, exponent: float) -> float:
    """`multiplier ** exponent` with halves through sqrt, which is exact where the root is."""
    if exponent == -0.5:
        return 1.0 / math.sqrt(multiplier)
    if exponent == 0.5:
        return math.sqrt(multiplier)
    value: float = multiplier**exponent
    return value
