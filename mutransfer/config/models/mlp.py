"""`model: {kind: mlp}`."""

from __future__ import annotations

from typing import Literal

from mutransfer.config.base import Depth
from mutransfer.config.models.base import BaseModelSection


class MLPSection(BaseModelSection):
    """Fully connected network for classification."""

    implementation = "mutransfer.models.mlp:MLP"
    consumes = "classes"

    kind: Literal["mlp"]
    """Model kind."""
    depth: Depth = 2
    """Number of hidden layers."""
    activation: Literal["relu", "gelu", "tanh"] = "relu"
    """Nonlinearity between layers."""
    bias: bool = True
    """Whether layers have biases; they start at zero."""
    zero_readout: bool = True
    """Readout weights start at zero."""

    def dead_hparams(self) -> dict[str, str]:  # noqa: D102
        return {**super().dead_hparams(), "position_scale": "the model has no positions"}
