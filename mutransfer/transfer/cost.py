"""The cost of a run, from its plan: nothing is allocated or run, and torch is not imported.

The usual count (Kaplan et al. 2020, arXiv 2001.08361, §2.1), with attention in full. Every weight that activations are
multiplied by costs 2 FLOPs per position forward and 4 backward. Attention costs 4·D per pair of a query and a key
(S² of them in a sequence) and layer forward, and twice that backward. A test holds it
against torch's own FlopCounterMode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mutransfer.config.schema import RunConfig
from mutransfer.parametrization.plan import Plan

_BYTES_FP32 = 4
# The backward pass multiplies two matrices for each one that the forward pass does.
_TRAINING_OVER_FORWARD = 3


@dataclass(frozen=True)
class Cost:
    """Cost of one training run."""

    parameters: int
    flops_per_step: int
    """Of the matrix products of one forward and backward pass, a multiply-add being two."""
    steps: int
    state_bytes: int
    """Weights, gradients and optimizer state in fp32; activations come on top."""

    @property
    def training_flops(self) -> int:
        """FLOPs of the whole run."""
        return self.flops_per_step * self.steps


def estimate(config: RunConfig, plan: Plan) -> Cost:
    """The cost of training `config`, whose plan is `plan`."""
    section, spec = config.model, config.data.spec
    products = sum(
        math.prod(one.shape) * section.places(name, spec) for name, one in plan.parameters.items() if one.multiplies
    )
    attention = 4 * plan.width * sum(section.scores(name, spec) for name in plan.attention)
    forward = 2 * products + attention
    optimizer = config.hparams.record
    return Cost(
        parameters=plan.parameter_count,
        flops_per_step=_TRAINING_OVER_FORWARD * forward * config.training.batch_size,
        steps=config.training.steps,
        state_bytes=_BYTES_FP32
        * sum(
            math.prod(one.shape) * optimizer.trainer(one.family).copies
            for one in plan.parameters.values()
            if one.tied_to is None
        ),
    )
