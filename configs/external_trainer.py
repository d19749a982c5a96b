"""Stands for a trainer of your own in configs/command.yaml: an MLP with its own data, Adam and µP, in numpy alone.

    python configs/external_trainer.py --width 256 --base-width 64 --lr 0.01 --steps 1000 --out /tmp/run

mutransfer knows nothing of it but its command line and the lines of JSON that it writes. For the hparams to transfer, a
trainer has to scale with the width by itself; here that is `Network.__init__`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

FEATURES, CLASSES, VALIDATION = 32, 10, 2048


def teacher(rng: np.random.Generator):
    """Labels of any inputs (n, FEATURES): the largest output of a fixed random network."""
    first, second = rng.normal(size=(FEATURES, 64)) / np.sqrt(FEATURES), rng.normal(size=(64, CLASSES))
    return lambda x: np.argmax(np.tanh(3 * x @ first) @ second, axis=1)


class Network:
    """input → hidden → hidden → logits; µP relative to `base`, or PyTorch's standard (`sp`)."""

    def __init__(self, width: int, base: int, how: str, init_scale: float, rng: np.random.Generator) -> None:
        m = width / base
        self.input = init_scale * rng.normal(size=(FEATURES, width)) / np.sqrt(FEATURES)
        self.hidden = init_scale * rng.normal(size=(width, width)) / np.sqrt(width)
        random = init_scale * rng.normal(size=(width, CLASSES)) / np.sqrt(width)
        # µP: the readout starts at zero and its input is divided by m.
        self.output, self.multiplier = (np.zeros_like(random), 1 / m) if how == "mup" else (random, 1.0)
        # µP for Adam: lr of width → width matrices over m, of the others as it is.
        self.lr = {"input": 1.0, "hidden": 1 / m if how == "mup" else 1.0, "output": 1.0}

    def step(self, x: np.ndarray, y: np.ndarray, temperature: float) -> tuple[float, dict[str, np.ndarray]]:
        """Mean cross entropy and its gradients."""
        a = x @ self.input
        b = np.maximum(a, 0) @ self.hidden
        top = np.maximum(b, 0) * self.multiplier
        logits = top @ self.output / temperature
        logits -= logits.max(axis=1, keepdims=True)
        p = np.exp(logits)
        p /= p.sum(axis=1, keepdims=True)
        rows = np.arange(len(y))
        loss = -np.log(np.maximum(p[rows, y], 1e-30)).mean()
        p[rows, y] -= 1
        p /= len(y) * temperature
        down = (p @ self.output.T) * self.multiplier * (b > 0)
        further = (down @ self.hidden.T) * (a > 0)
        return float(loss), {"input": x.T @ further, "hidden": np.maximum(a, 0).T @ down, "output": top.T @ p}


def main() -> None:
    """Train, and write a line of JSON now and then."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--base-width", type=int, required=True)
    parser.add_argument("--parametrization", choices=("mup", "sp"), default="mup")
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--init-scale", type=float, default=1.0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval-every", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    label = teacher(np.random.default_rng(0))
    held_out = np.random.default_rng(1).normal(size=(VALIDATION, FEATURES))
    rng = np.random.default_rng([2, given.seed])
    network = Network(given.width, given.base_width, given.parametrization, given.init_scale, rng)
    first = {name: np.zeros_like(getattr(network, name)) for name in network.lr}
    second = {name: np.zeros_like(getattr(network, name)) for name in network.lr}
    log = given.out / "losses.jsonl"
    for step in range(1, given.steps + 1):
        x = rng.normal(size=(given.batch_size, FEATURES))
        loss, gradients = network.step(x, label(x), given.temperature)
        rate = given.lr * min(1.0, step / (0.1 * given.steps)) * (1 - step / (given.steps + 1))
        for name, gradient in gradients.items():
            first[name] += 0.1 * (gradient - first[name])
            second[name] += 0.05 * (gradient**2 - second[name])
            moment, size = first[name] / (1 - 0.9**step), second[name] / (1 - 0.95**step)
            weights = getattr(network, name)
            weights -= rate * network.lr[name] * moment / (np.sqrt(size) + 1e-12)
        if step % given.eval_every == 0 or step == given.steps:
            value, _ = network.step(held_out, label(held_out), given.temperature)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "train_loss": loss, "val_loss": value}) + "\n")
            sys.stdout.write(f"step {step}: train {loss:.4f}, validation {value:.4f}\n")


if __name__ == "__main__":
    main()
