"""The torch optimizer over the plan's parameter groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mutransfer.config.hparams import Hparams
from mutransfer.optimizers.base import Optimizer
from mutransfer.parametrization.apply import optimizer_groups
from mutransfer.parametrization.plan import Plan


class Together:
    """Several optimizers as one, each for parameters of its own."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.parts = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of all."""
        return [group for optimizer in self.parts for group in optimizer.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every gradient."""
        for optimizer in self.parts:
            optimizer.zero_grad(set_to_none)

    def step(self) -> None:
        """One update of every parameter."""
        for optimizer in self.parts:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """State of each, by its place."""
        return {str(index): optimizer.state_dict() for index, optimizer in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state that `state_dict` gave."""
        for index, optimizer in enumerate(self.parts):
            optimizer.load_state_dict(state[str(index)])


def build_optimizer(model: nn.Module, plan: Plan, hparams: Hparams) -> torch.optim.Optimizer | Together:
    """The optimizer of `hparams`, each group with its own peak lr under `peak_lr`."""
    return optimizer_over(hparams.record, peaked_groups(model, plan, hparams))


def peaked_groups(model: nn.Module, plan: Plan, hparams: Hparams) -> list[dict[str, Any]]:
    """The plan's parameter groups, each with its `peak_lr`, which schedules multiply."""
    return [{**group, "peak_lr": group["lr"]} for group in optimizer_groups(model, plan, hparams)]


def optimizer_over(record: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer | Together:
    """The optimizer over groups of one model or of several; two where the record leaves parameters to another."""
    by_trainer: dict[str, tuple[Optimizer, list[dict[str, Any]]]] = {}
    for group in sorted(groups, key=lambda group: group["family"] != record.family):
        trainer = record.trainer(group["family"])
        by_trainer.setdefault(trainer.name, (trainer, []))[1].append(group)
    parts = [trainer.build(own) for trainer, own in by_trainer.values()]
    return parts[0] if len(parts) == 1 else Together(*parts)


def set_lr(optimizer: torch.optim.Optimizer | Together, factor: float) -> None:
    """Set every group to `factor` times its own peak lr."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
