"""One trial as the peers train it. Shared, so that the peers differ in who hands out the trials and in nothing else."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from data import Images, Text
from models import build, make_optimizer
from torch import Tensor, nn
from workloads import EVAL_BATCHES, FINAL_LR, SEED, WARMUP, Workload


@dataclass(frozen=True)
class Trained:
    """Losses in nats."""

    losses: list[float]
    """One a step."""
    validation_loss: float

    def save(self, path: Path, hparams: dict[str, Any]) -> None:
        """Write hparams and losses as one JSON file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"hparams": hparams, "validation_loss": self.validation_loss, "losses": self.losses})
        )


def train(workload: Workload, data: Text | Images, hparams: dict[str, float], *, fused: bool = False) -> Trained:
    """Train one trial to its end; losses stay tensors until then."""
    model = build(workload, init_scale=hparams["init_scale"], temperature=hparams["temperature"], seed=SEED)
    optimizer = make_optimizer(workload, model, hparams["lr"], fused=fused)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, workload.steps))
    losses = []
    for step in range(workload.steps):
        inputs, targets = data.batch(step, workload.batch_size, SEED)
        loss = loss_of(model, inputs, targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        losses.append(loss.detach())
    return Trained(torch.stack(losses).tolist(), evaluate(model, workload, data))


def factor(step: int, steps: int) -> float:
    """Linear warmup, then half a cosine down to a tenth."""
    warmup = round(WARMUP * steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * progress))


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy, mean over all targets."""
    return F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


@torch.no_grad()
def evaluate(model: nn.Module, workload: Workload, data: Text | Images) -> float:
    """Mean validation loss per target."""
    model.eval()
    total, count = torch.zeros(()), 0
    for inputs, targets in data.validation(workload.batch_size, EVAL_BATCHES):
        total += loss_of(model, inputs, targets) * targets.numel()
        count += targets.numel()
    return total.item() / count
