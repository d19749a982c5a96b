"""A plain PyTorch loop with one of torch's schedulers: `python examples/plain_loop.py --lr 0.01`."""

import argparse

import torch
from torch import nn
import mutransfer as mt

parser = argparse.ArgumentParser()
for name, default in {"width": 64, "base-width": 32, "lr": 0.01, "steps": 100, "seed": 0}.items():
    parser.add_argument(f"--{name}", type=type(default), default=default)
given = parser.parse_args()


def build(width: int) -> nn.Module:  # the third token from the first two
    first, second = nn.Linear(2 * width, width), nn.Linear(width, 64)
    return nn.Sequential(nn.Embedding(64, width), nn.Flatten(), first, nn.ReLU(), second)


plan = mt.plan_for(build, width=given.width, base_width=given.base_width)
model = build(given.width)
mt.initialize(model, plan, seed=given.seed)
optimizer = torch.optim.AdamW(mt.parameter_groups(model, plan, lr=given.lr, weight_decay=0.1))
peaks = [group["lr"] for group in optimizer.param_groups]  # one number here would give every group the same lr
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peaks, total_steps=given.steps)
for step in range(1, given.steps + 1):
    tokens = (torch.randint(64, (64, 1)) + torch.randint(1, 5, (64, 1)) * torch.arange(3)) % 64
    loss = nn.functional.cross_entropy(model(tokens[:, :2]), tokens[:, 2])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    print(f"step {step}: loss {loss.item()}")  # every batch is new
