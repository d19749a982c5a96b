"""Adam (Kingma and Ba 2015, arXiv 1412.6980)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mutransfer.optimizers.adamw import ADAMW
from mutransfer.optimizers.base import Groups, fused

if TYPE_CHECKING:
    import torch


def _build(groups: Groups) -> torch.optim.Optimizer:
    import torch

    return torch.optim.Adam(groups, fused=fused(groups))


ADAM = replace(
    ADAMW,  # without weight decay the two are one
    name="adam",
    build=_build,
    weight_decay="refused",
    refusal="adam's coupled L2 has no width-independent rule; use optimizer adamw",
)
