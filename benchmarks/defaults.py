"""What each choice in configs/proxy.yaml is worth: the config as shipped, and with one choice undone at a time.

    python benchmarks/defaults.py [--data PATH …] [--widths 64,128] [--seeds 3] [--lr 0.0078125]

Prints validation losses in nats per byte, and the paired difference to the config as shipped with its standard error
over seeds (initial weights and batches). Text: the files given, or the standard library's.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

import torch

from mutransfer.config.load import load_config
from mutransfer.training.loop import Hooks, fit
from mutransfer.training.losses import MetricsFile

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "proxy.yaml"
VARIANTS = {
    "as shipped": (),
    "learned positions": ("model.positions=learned",),
    "temperature 1": ("hparams.temperature=1.0",),
    "embedding_lr 8": ("hparams.embedding_lr=8.0",),
    "embedding lr × √m": ("rules.embedding_lr_exponent=0.5",),
    "norm gains": ("model.norm_gain=true",),
    "readout not zero": ("model.zero_readout=false",),
    "queries not zero": ("model.zero_query=false",),
    "no warmup": ("hparams.warmup=0.0",),
    "ε 1e-12": ("hparams.eps=1e-12",),
}


def loss(changes: tuple[str, ...], width: int, seed: int, lr: float, data: list[str]) -> float:
    """Validation loss of one run; infinite where it diverges."""
    text = [f"data={{kind: text, seq_len: 64, paths: [{', '.join(map(repr, data))}]}}"] if data else []
    config = load_config(CONFIG, [*text, *changes, f"model.width={width}", f"training.seed={seed}", f"hparams.lr={lr}"])
    found = fit(config, MetricsFile(None), Hooks()).validation_loss
    return math.inf if found is None else found


def main() -> None:
    """Train everything, print a row per variant and width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--widths", default="64,128")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=2.0**-7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| choice | width | loss | difference to as shipped |\n| --- | --- | --- | --- |")
    shipped: dict[int, list[float]] = {}
    for name, changes in VARIANTS.items():
        for width in map(int, given.widths.split(",")):
            losses = [loss(changes, width, seed, given.lr, given.data) for seed in range(given.seeds)]
            paired = [one - other for one, other in zip(losses, shipped.setdefault(width, losses), strict=True)]
            error = statistics.stdev(paired) / math.sqrt(given.seeds) if given.seeds > 1 else math.nan
            difference = "" if not changes else f"{statistics.mean(paired):+.4f} ± {error:.4f}"
            print(f"| {name} | {width} | {statistics.mean(losses):.4f} | {difference} |", flush=True)


if __name__ == "__main__":
    main()
