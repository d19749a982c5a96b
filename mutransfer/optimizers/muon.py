"""Muon (Jordan et al. 2024) with Nesterov momentum on hidden matrices, AdamW on everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutransfer.optimizers.adamw import ADAMW
from mutransfer.optimizers.base import Groups, Optimizer

if TYPE_CHECKING:
    import torch


def _build(groups: Groups) -> torch.optim.Optimizer:
    import torch

    return torch.optim.Muon(groups)


MUON = Optimizer(
    name="muon",
    family="muon",
    build=_build,
    own_hparams={"momentum": 0.95, "adam_lr": 4e-3},
    copies=3,
    most_lr=0.02,
    rest=ADAMW,
    pack="sliced",  # its update is not arithmetic per element
)
