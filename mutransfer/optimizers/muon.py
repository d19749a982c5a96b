"""Muon (Jordan et al. 2024) with Nesterov momentum on hidden matrices, AdamW on everything else."""

from __future__ import annotations

from mutransfer.optimizers.adamw import ADAMW
from mutransfer.optimizers.base import Optimizer, of_torch

MUON = Optimizer(
    name="muon",
    family="muon",
    build=of_torch("Muon", has_fused=False),
    own_hparams={"momentum": 0.95, "adam_lr": 4e-3},
    copies=3,
    most_lr=0.02,
    rest=ADAMW,
    pack="sliced",  # its update is not arithmetic per element
)
