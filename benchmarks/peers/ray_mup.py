"""Ray Tune around the same training function: two trials at a time, one CPU each, actors reused between trials.

    python ray_mup.py W3 --trials 16

The search is Ray's own random search, the cheapest it has. The last line of stdout is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# One report a trial needs no TensorBoard, CSV and JSON files, and no usage statistics: all of it costs time.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import torch
from ray import tune
from workloads import WORKLOADS, Workload


class Trial(tune.Trainable):  # type: ignore[misc]
    """One trial; its actor is reset and used again, with the data already loaded."""

    def setup(
        self, config: dict[str, float], workload: Workload, data_path: Path | None, out: Path, fused: bool
    ) -> None:
        """Load the data, once an actor."""
        from data import load

        torch.set_num_threads(1)
        self.workload, self.out, self.fused = workload, out, fused
        self.data = load(workload, data_path)
        self.hparams = config

    def reset_config(self, new_config: dict[str, float]) -> bool:
        """Take the next trial."""
        self.hparams = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Train the whole trial."""
        from training import train

        trained = train(self.workload, self.data, self.hparams, fused=self.fused)
        trained.save(self.out / f"{self.trial_id}.json", self.hparams)
        return {"validation_loss": trained.validation_loss, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""


def main() -> None:
    """Sweep a workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--data", type=Path, help="file of the data, where the workload needs one")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--out", type=Path, help="folder of the trials' losses")
    parser.add_argument("--fused", action="store_true", help="torch's fused optimizers")
    parser.add_argument("--no-reuse", action="store_true", help="a new actor for every trial")
    given = parser.parse_args()
    workload, trials = WORKLOADS[given.workload], given.trials or WORKLOADS[given.workload].trials
    out = (given.out or Path(tempfile.mkdtemp(prefix="ray-mup-"))).resolve()
    here = str(Path(__file__).resolve().parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    # Ray's sockets lie under its temporary folder and their paths may be 107 characters long.
    temporary = tempfile.mkdtemp(prefix="ray-")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=temporary,
        runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
    )
    began = time.perf_counter()
    data = given.data.resolve() if given.data else None
    trainable = tune.with_parameters(Trial, workload=workload, data_path=data, out=out / "losses", fused=given.fused)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={name: tune.loguniform(*bounds) for name, bounds in workload.space.items()},
        tune_config=tune.TuneConfig(
            metric="validation_loss",
            mode="min",
            num_samples=trials,
            max_concurrent_trials=2,
            reuse_actors=not given.no_reuse,
        ),
        run_config=tune.RunConfig(storage_path=str(out), verbose=0),
    )
    results = tuner.fit()
    finite = [one for one in results if one.metrics and math.isfinite(one.metrics.get("validation_loss", math.nan))]
    best = min(finite, key=lambda one: one.metrics["validation_loss"], default=None)
    answer = {
        "trials": len(results),
        "diverged": len(results) - len(finite),
        "validation_loss": best.metrics["validation_loss"] if best else None,
        "hparams": best.config if best else None,
        "seconds": time.perf_counter() - began,
    }
    ray.shutdown()
    shutil.rmtree(temporary, ignore_errors=True)
    print(json.dumps(answer))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
