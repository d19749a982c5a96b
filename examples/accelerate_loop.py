"""A loop with Accelerate: `accelerate launch examples/accelerate_loop.py --lr 0.01`."""

import argparse

import torch
from accelerate import Accelerator
from torch import nn
import mutransfer as mt
from mutransfer.integrations import CoordinateProbe

parser = argparse.ArgumentParser()
for name, default in {"width": 64, "base-width": 32, "lr": 0.01, "steps": 100, "seed": 0}.items():
    parser.add_argument(f"--{name}", type=type(default), default=default)
given = parser.parse_args()
data = (torch.randint(64, (64 * given.steps, 1)) + torch.randint(1, 5, (64 * given.steps, 1)) * torch.arange(3)) % 64


def build(width: int) -> nn.Module:  # the third token from the first two
    first, second = nn.Linear(2 * width, width), nn.Linear(width, 64)
    return nn.Sequential(nn.Embedding(64, width), nn.Flatten(), first, nn.ReLU(), second)


plan = mt.plan_for(build, width=given.width, base_width=given.base_width)
model = build(given.width)
optimizer = torch.optim.AdamW(mt.parameter_groups(model, plan, lr=given.lr))
loader = torch.utils.data.DataLoader(data, batch_size=64)
accelerator, probe = Accelerator(), CoordinateProbe(data[:64, :2])
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
mt.initialize(model, plan, seed=given.seed)  # before prepare, or after it as here
for step, tokens in enumerate(loader, start=1):
    accelerator.log(probe.look(model), step=step)  # to the trackers, if there are any
    loss = nn.functional.cross_entropy(model(tokens[:, :2]), tokens[:, 2])
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()
    accelerator.print(f"step {step}: loss {loss.item()}")  # every batch is new
