"""The script that everyone writes: Optuna around a training function with the `mup` package.

    python optuna_mup.py W3 --trials 16                     # one process, the study in memory
    python optuna_mup.py W3 --trials 16 --processes 2       # two processes on one SQLite study

With several processes torch and the data are loaded first and the processes forked, which is what saves most.
The last line of stdout is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
import torch
from data import Images, Text, load
from training import train
from workloads import WORKLOADS, Workload


class Objective:
    """Called by Optuna with every trial."""

    def __init__(self, workload: Workload, data: Text | Images, out: Path, fused: bool) -> None:
        self.workload, self.data, self.out, self.fused = workload, data, out, fused

    def __call__(self, trial: optuna.Trial) -> float:
        """Train a trial, keep its losses in a file, return its validation loss."""
        hparams = {name: trial.suggest_float(name, *bounds, log=True) for name, bounds in self.workload.space.items()}
        trained = train(self.workload, self.data, hparams, fused=self.fused)
        trained.save(self.out / f"{trial.number}.json", hparams)
        return trained.validation_loss


def work(objective: Objective, url: str, trials: int, seed: int, threads: int) -> None:
    """One of several processes on the study at `url`."""
    torch.set_num_threads(threads)
    study = optuna.load_study(study_name="mup", storage=url, sampler=optuna.samplers.RandomSampler(seed=seed))
    study.optimize(objective, n_trials=trials, catch=(ValueError,))


def main() -> None:
    """Sweep a workload, or train one point of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--data", type=Path, help="file of the data, where the workload needs one")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--storage", help="Optuna storage; with one process in memory when left out")
    parser.add_argument("--out", type=Path, help="folder of the trials' losses")
    parser.add_argument("--fused", action="store_true", help="torch's fused optimizers")
    parser.add_argument("--point", type=json.loads, help="train these hparams once: a JSON object")
    given = parser.parse_args()
    workload, trials = WORKLOADS[given.workload], given.trials or WORKLOADS[given.workload].trials
    out = given.out or Path(tempfile.mkdtemp(prefix="optuna-mup-"))
    torch.set_num_threads(given.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data = load(workload, given.data)
    if given.point:
        trained = train(workload, data, given.point, fused=given.fused)
        print(json.dumps({"validation_loss": trained.validation_loss, "losses": trained.losses}))
        return

    objective = Objective(workload, data, out, given.fused)
    began = time.perf_counter()
    if given.processes == 1:
        sampler = optuna.samplers.RandomSampler(seed=0)
        study = optuna.create_study(storage=given.storage, study_name="mup", sampler=sampler)
        study.optimize(objective, n_trials=trials, catch=(ValueError,))
    else:
        out.mkdir(parents=True, exist_ok=True)
        url = given.storage or f"sqlite:///{out / 'study.db'}"
        optuna.create_study(storage=url, study_name="mup")
        shares = [len(range(index, trials, given.processes)) for index in range(given.processes)]
        fork = multiprocessing.get_context("fork")
        workers = [
            fork.Process(target=work, args=(objective, url, share, seed, given.threads))
            for seed, share in enumerate(shares)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        study = optuna.load_study(study_name="mup", storage=url)
    print(json.dumps(summary(study, time.perf_counter() - began)))


def summary(study: optuna.Study, seconds: float) -> dict[str, Any]:
    """What the benchmark reads."""
    finite = [one for one in study.trials if one.value is not None and math.isfinite(one.value)]
    best = min(finite, key=lambda one: one.value or 0.0, default=None)
    return {
        "trials": len(study.trials),
        "diverged": len(study.trials) - len(finite),
        "validation_loss": best.value if best else None,
        "hparams": best.params if best else None,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
