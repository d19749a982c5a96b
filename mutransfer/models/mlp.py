"""Fully connected network for classification.

Shapes: B batch, F features, D width, C classes.

    inputs      (B, …)      any shape with F numbers per example
    x           (B, D)      after every hidden layer
    logits      (B, C)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mutransfer.config.data import ClassSpec
from mutransfer.config.models import MLPSection
from mutransfer.parametrization.facts import ModelFacts

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "tanh": F.tanh}


class MLP(nn.Module):
    """`inputs (B, …) → logits (B, C)` through `depth` hidden layers."""

    def __init__(self, section: MLPSection, spec: ClassSpec) -> None:
        super().__init__()
        sizes = [spec.features, *[section.width] * section.depth]
        self.layers = nn.ModuleList(
            nn.Linear(fan_in, fan_out, bias=section.bias) for fan_in, fan_out in itertools.pairwise(sizes)
        )
        self.readout = nn.Linear(section.width, spec.classes, bias=section.bias)
        self.facts = ModelFacts(readouts=("readout",))
        self.activation = _ACTIVATIONS[section.activation]

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of every class."""
        x = inputs.flatten(1)
        for layer in self.layers:
            x = self.activation(layer(x))
        logits: Tensor = self.readout(x)
        return logits
