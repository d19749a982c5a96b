"""torch's own optimizers over the plan's parameter groups."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from mutransfer.config.hparams import Hparams, OptimizerName
from mutransfer.parametrization.apply import parameter_groups
from mutransfer.parametrization.plan import Plan, Scaling

# Where torch has an update as one kernel: a third of the time of its loop on a CPU.
_FUSED_ON = ("cpu", "cuda")


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
    return optimizer_over(hparams.optimizer, optimizer_groups(model, plan, hparams))


def optimizer_groups(model: nn.Module, plan: Plan, hparams: Hparams) -> list[dict[str, Any]]:
    """The plan's parameter groups, each with its `peak_lr` and with momentum or betas of its own."""
    groups: list[dict[str, Any]] = []
    for group in parameter_groups(model, plan, **hparams.for_optimizer()):
        group["peak_lr"] = group["lr"]
        if group["family"] == "adam":
            groups.append({**group, "betas": (hparams.resolved("beta1"), hparams.resolved("beta2"))})
            continue
        group["momentum"] = hparams.resolved("momentum")
        groups += _by_shape(group, plan) if group["family"] == "muon" else [group]
    return groups


def optimizer_over(name: OptimizerName, groups: list[dict[str, Any]]) -> torch.optim.Optimizer | Together:
    """torch's optimizer for groups that `optimizer_groups` made, of one model or of several."""
    fused = all(parameter.device.type in _FUSED_ON for group in groups for parameter in group["params"])
    if name == "sgd":
        return torch.optim.SGD(groups, fused=fused)
    if name == "muon":
        matrices = [group for group in groups if group["family"] == "muon"]
        rest = torch.optim.AdamW([group for group in groups if group["family"] != "muon"], fused=fused)
        return Together(torch.optim.Muon(matrices), rest) if matrices else rest
    return (torch.optim.AdamW if name == "adamw" else torch.optim.Adam)(groups, fused=fused)


def _by_shape(group: dict[str, Any], plan: Plan) -> list[dict[str, Any]]:
    """A Muon group split so that torch's own factor √max(1, rows/columns) stays what it is at base width: the rule for
    width is the plan's, and torch's would come on top of it where rows and columns grow unequally."""
    split: dict[float, dict[str, Any]] = {}
    for name, parameter in zip(group["names"], group["params"], strict=True):
        scaling = plan.parameters[name]
        share = 1.0
        if plan.parametrization != "sp":
            share = _torch_factor(scaling, base=True) / _torch_factor(scaling, base=False)
        settings = {"lr": group["lr"] * share, "peak_lr": group["peak_lr"] * share,
                    "weight_decay": group["weight_decay"] / share}  # fmt: skip
        own = split.setdefault(share, {**group, "params": [], "names": [], **settings})
        own["params"].append(parameter)
        own["names"].append(name)
    return list(split.values())


def _torch_factor(scaling: Scaling, *, base: bool) -> float:
    rows, columns = scaling.shape
    ratio = rows / columns
    return math.sqrt(max(1.0, ratio * scaling.m_in / scaling.m_out if base else ratio))


def set_lr(optimizer: torch.optim.Optimizer | Together, factor: float) -> None:
    """Set every group to `factor` times its own peak lr."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
