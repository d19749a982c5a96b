"""What the coordinator costs: many short trials on simulated workers, through the real sweep, study and folders.

    python benchmarks/study_scale.py                                  # 10,000 trials of 1 s on 16 workers, about 11 min
    python benchmarks/study_scale.py --trials 1000 --second 0.1       # the same in 10 s, ten times as hard

Prints ratios: wall time over the ideal one, the coordinator's cost per trial with work that takes no time, and the
wall time of `mutransfer status` and of resuming over 2 s. Exit code 3 when one is beyond its bound.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mutransfer.config.load import load_config
from mutransfer.executors.base import Job
from mutransfer.sweep.coordinator import run_sweep

OVERHEAD = 0.03
SECONDS = 2.0
CONFIG = """\
name: {name}
model: {{kind: gpt, width: 16, base_width: 16, depth: 1, head_dim: 8}}
data: {{kind: text, paths: [corpus.txt], seq_len: 32}}
training: {{steps: 10, batch_size: 4}}
search:
  trials: {trials}
  confirm: {{top: 0}}
  sampler: {sampler}
  {storage}
  space:
    lr: {{log_uniform: [1.0e-3, 1.0e-1]}}
    init_scale: {{log_uniform: [0.1, 10]}}
    temperature: {{log_uniform: [0.25, 4]}}
"""


class Sleepers:
    """An executor whose workers sleep and make the folder that a trial would."""

    def __init__(self, workers: int, second: float) -> None:
        self.capacity, self._second = workers, second
        self._threads = ThreadPoolExecutor(workers)

    def submit(self, job: Job) -> Future[Any]:
        """See `executors.base.Executor`."""
        return self._threads.submit(self._work, job)

    def close(self) -> None:
        """See `executors.base.Executor`."""
        self._threads.shutdown()

    def _work(self, job: Job) -> list[dict[str, Any]]:
        results = []
        for config, name in zip(job.arguments["configs"], job.arguments["folders"], strict=True):
            folder = Path(name)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "metrics.jsonl").write_text("{}\n")
            time.sleep(self._second)
            loss = config["hparams"]["lr"]
            results.append({
                "outcome": "completed", "steps": 10, "training_loss": loss, "validation_loss": loss,
                "seconds": self._second, "parameters": 1,
            })  # fmt: skip
        return results


def sweep(arguments: argparse.Namespace, name: str, trials: int, second: float) -> tuple[float, float]:
    """Wall time and CPU time of a sweep."""
    storage = f"storage: {arguments.storage}" if arguments.storage else ""
    text = CONFIG.format(name=name, trials=trials, sampler=arguments.sampler, storage=storage)
    Path(f"{name}.yaml").write_text(text)
    config = load_config(f"{name}.yaml")
    began, cpu = time.perf_counter(), time.process_time()
    run_sweep(config, pack=1, executor=lambda: Sleepers(arguments.workers, second))
    return time.perf_counter() - began, time.process_time() - cpu


def command(*words: str) -> float:
    """Wall time of a mutransfer command, imports and all; the best of three."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mutransfer", *words], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--second", type=float, default=1.0, help="how long a one-second trial takes")
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--storage", help="a storage URL; the run folder's own file when left out")
    arguments = parser.parse_args()
    home = Path.cwd()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("corpus.txt").write_text("".join(f"{k * k} bottles of beer on the wall\n" for k in range(999)))
        sweep(arguments, "warm", arguments.workers, 0.0)  # imports are no cost of a trial
        few = min(arguments.trials, 2000)
        wall, cpu = sweep(arguments, "idle", few, 0.0)
        print(f"work that takes no time: {1000 * wall / few:.2f} ms per trial ({1000 * cpu / few:.2f} ms of CPU)")
        ideal = -(-arguments.trials // arguments.workers) * arguments.second
        wall, cpu = sweep(arguments, "full", arguments.trials, arguments.second)
        over = wall / ideal - 1
        print(
            f"{arguments.trials} trials of {arguments.second:g} s on {arguments.workers} workers: {wall:.1f} s, ideal "
            f"{ideal:.1f} s: {over:+.2%} (bound {OVERHEAD:.0%}); CPU {1000 * cpu / arguments.trials:.2f} ms per trial"
        )
        status, resume = command("status", "full"), command("sweep", "full.yaml", "--no-check")
        print(f"mutransfer status: {status:.2f} s, {status / SECONDS:.2f} of its {SECONDS:g} s")
        print(f"mutransfer sweep, again: {resume:.2f} s, {resume / SECONDS:.2f} of its {SECONDS:g} s")
        os.chdir(home)
    if over > OVERHEAD or max(status, resume) > SECONDS:
        sys.exit(3)


if __name__ == "__main__":
    main()
