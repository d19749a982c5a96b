"""torch's own optimizers over the plan's parameter groups."""

from __future__ import annotations

import torch
from torch import nn

from mutransfer.config.hparams import Hparams
from mutransfer.parametrization.apply import parameter_groups
from mutransfer.parametrization.plan import Plan


def build_optimizer(model: nn.Module, plan: Plan, hparams: Hparams) -> torch.optim.Optimizer:
    """The optimizer of `hparams`, each group with its own peak lr under `peak_lr`."""
    groups = parameter_groups(
        model, plan, lr=hparams.lr, weight_decay=hparams.weight_decay, eps=hparams.resolved("eps") or 0.0
    )
    for group in groups:
        group["peak_lr"] = group["lr"]
    if hparams.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=hparams.resolved("momentum"))
    kind = torch.optim.AdamW if hparams.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, betas=(hparams.resolved("beta1"), hparams.resolved("beta2")))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to `factor` times its own peak lr."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
