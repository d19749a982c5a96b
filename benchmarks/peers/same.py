"""Whether a peer and mutransfer do the same work: from the same initial weights both train on the same batches.

    python same.py W3

The last line of stdout is a JSON object with the largest relative difference of two losses of the same step.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from data import load
from models import build, make_optimizer
from training import factor, loss_of
from workloads import SEED, WORKLOADS

from mutransfer.config.schema import RunConfig
from mutransfer.data import load_data
from mutransfer.training.learner import Learner


def main() -> None:
    """Train both side by side at the middle of every range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    workload = WORKLOADS[given.workload]
    hparams = {name: math.sqrt(low * high) for name, (low, high) in workload.space.items()}
    config = RunConfig.model_validate(workload.config(given.data, 1)).with_hparams(hparams)
    learner, our_data, data = Learner(config, torch.device("cpu")), load_data(config.data), load(workload, given.data)

    scale, temperature = hparams["init_scale"], hparams["temperature"]
    model = build(workload, init_scale=scale, temperature=temperature, seed=SEED)
    model.load_state_dict({name: one.detach() for name, one in learner.model.named_parameters()})
    optimizer = make_optimizer(workload, model, hparams["lr"], fused=False)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, workload.steps))
    worst, loss = 0.0, 0.0
    for step in range(given.steps):
        ours = learner.train_step(step, our_data.batch(step, batch_size=workload.batch_size, seed=SEED)).item()
        theirs = loss_of(model, *data.batch(step, workload.batch_size, SEED))
        optimizer.zero_grad()
        theirs.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        loss = theirs.item()
        worst = max(worst, abs(ours - loss) / loss)
    print(json.dumps({"steps": given.steps, "largest_difference": worst, "last_loss": loss}))


if __name__ == "__main__":
    main()
