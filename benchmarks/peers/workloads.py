"""The workloads of benchmarks/sweeps.py as plain numbers, for mutransfer's side and every peer. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVAL_BATCHES = 8
WARMUP = 0.1
FINAL_LR = 0.1
MOMENTUM = 0.9
BETAS = (0.9, 0.95)
SEED = 0


@dataclass(frozen=True)
class Workload:
    """One sweep: what is trained, for how long, over which ranges (all log-uniform)."""

    name: str
    kind: str
    """`gpt` or `mlp`."""
    width: int
    base_width: int
    depth: int
    batch_size: int
    steps: int
    trials: int
    space: dict[str, tuple[float, float]]
    """Narrow enough that no trial overflows: with every safety off, all run to their end."""
    data_option: str | None
    """The option of the benchmark that gives the data's path; None where a package brings it."""
    validation_fraction: float = 0.1
    heads: int = 0
    seq_len: int = 0
    limit: int = 0
    """First so many images only."""
    goal: float = 1.0
    """How many times faster than the best peer mutransfer has to be."""

    def config(self, data: Path | None, trials: int) -> dict[str, Any]:
        """The same workload as a config of `mutransfer sweep` in which nothing stops a trial early."""
        model: dict[str, Any] = {
            "kind": self.kind, "width": self.width, "base_width": self.base_width, "depth": self.depth
        }  # fmt: skip
        hparams: dict[str, Any] = {"schedule": "cosine", "warmup": WARMUP, "final_lr": FINAL_LR}
        section: dict[str, Any] = {"validation_fraction": self.validation_fraction}
        if self.kind == "gpt":
            model["heads"] = self.heads
            section |= {"kind": "text", "paths": [str(data)], "seq_len": self.seq_len}
            hparams |= {"optimizer": "adamw", "beta1": BETAS[0], "beta2": BETAS[1]}
        else:
            hparams |= {"optimizer": "sgd", "momentum": MOMENTUM}
            section |= (
                {"kind": "parquet-images", "path": str(data), "limit": self.limit} if data else {"kind": "digits"}
            )
        return {
            "name": self.name,
            "model": model,
            "parametrization": "mup",
            "data": section,
            "training": {
                "steps": self.steps, "batch_size": self.batch_size, "seed": SEED,
                "eval_batches": EVAL_BATCHES, "divergence_factor": 1e30,
            },
            "hparams": hparams,
            "search": {
                "trials": trials, "sampler": "random", "seed": SEED, "confirm": {"top": 0},
                "space": {name: {"log_uniform": list(bounds)} for name, bounds in self.space.items()},
            },
        }  # fmt: skip


WORKLOADS = {
    one.name: one
    for one in (
        Workload(
            name="W1", kind="gpt", width=128, base_width=64, depth=2, heads=4, seq_len=64, batch_size=16, steps=200,
            trials=16, data_option="tinyshakespeare", goal=1.3,
            space={"lr": (1e-4, 3e-2), "init_scale": (0.3, 3.0), "temperature": (0.125, 4.0)},
        ),
        Workload(
            name="W2", kind="mlp", width=256, base_width=128, depth=2, batch_size=64, steps=500, trials=64,
            data_option="cifar10", limit=10_000, goal=1.5,
            space={"lr": (1e-4, 3e-2), "init_scale": (0.3, 2.0), "temperature": (0.5, 4.0)},
        ),
        Workload(
            name="W3", kind="mlp", width=64, base_width=32, depth=2, batch_size=64, steps=500, trials=256,
            data_option=None, validation_fraction=0.2, goal=4.0,
            space={"lr": (1e-3, 1e-1), "init_scale": (0.3, 2.0), "temperature": (0.5, 4.0)},
        ),
    )
}  # fmt: skip
