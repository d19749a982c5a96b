"""Which of torch's schedulers keep the ratios of the groups' learning rates: what docs/other-trainers.md says."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import mutransfer as mt


def build(width: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(11, width), nn.Linear(width, width), nn.Linear(width, 7))


def optimizer() -> torch.optim.Optimizer:
    plan = mt.plan_for(build, width=32, base_width=8)
    return torch.optim.AdamW(mt.parameter_groups(build(32), plan, lr=0.1))


def spread(made: torch.optim.Optimizer, scheduler: lr_scheduler.LRScheduler) -> float:
    """How far, over 20 steps, the largest lr over the smallest is from the 4 that the plan says."""
    furthest = 1.0
    for _ in range(20):
        made.step()
        scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        lrs = [group["lr"] for group in made.param_groups]
        if min(lrs) > 1e-9:
            furthest = max(furthest, 4 / (max(lrs) / min(lrs)), (max(lrs) / min(lrs)) / 4)
    return furthest


def peaks(made: torch.optim.Optimizer, factor: float = 1.0) -> list[float]:
    return [factor * group["lr"] for group in made.param_groups]


KEEP = {
    "lambda": lambda made: lr_scheduler.LambdaLR(made, lambda step: 1 / (1 + step)),
    "step": lambda made: lr_scheduler.StepLR(made, 5),
    "exponential": lambda made: lr_scheduler.ExponentialLR(made, 0.9),
    "polynomial": lambda made: lr_scheduler.PolynomialLR(made, 30),
    "warmup and cosine": lambda made: lr_scheduler.SequentialLR(
        made, [lr_scheduler.LinearLR(made, 0.1, total_iters=5), lr_scheduler.CosineAnnealingLR(made, 20)], [5]
    ),
    "plateau": lambda made: lr_scheduler.ReduceLROnPlateau(made, patience=2),
    "one cycle": lambda made: lr_scheduler.OneCycleLR(made, max_lr=peaks(made), total_steps=25),
    "cyclic": lambda made: lr_scheduler.CyclicLR(made, peaks(made, 0.1), peaks(made), cycle_momentum=False),
    "swa": lambda made: torch.optim.swa_utils.SWALR(made, swa_lr=peaks(made, 0.1)),
}
LOSE = {
    "one cycle": lambda made: lr_scheduler.OneCycleLR(made, max_lr=0.1, total_steps=25),
    "cyclic": lambda made: lr_scheduler.CyclicLR(made, 0.01, 0.1, cycle_momentum=False),
    "swa": lambda made: torch.optim.swa_utils.SWALR(made, swa_lr=0.01),
    "cosine with a floor": lambda made: lr_scheduler.CosineAnnealingLR(made, 20, eta_min=0.01),
}


@pytest.mark.parametrize("name", KEEP)
def test_ratios_are_kept(name):
    made = optimizer()
    assert spread(made, KEEP[name](made)) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("name", LOSE)
def test_one_number_for_all_groups_loses_them(name):
    made = optimizer()
    assert spread(made, LOSE[name](made)) > 2
