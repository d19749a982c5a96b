"""What packs gain on this machine: training steps per second of one trial and of packs, by model, width and size.

    python benchmarks/packs.py                       # the first GPU, or one CPU core
    python benchmarks/packs.py --device cpu --widths 32,64,128 --sizes 1,4,16,64 --models mlp
    python benchmarks/packs.py --device cuda --sizes 1,10,30,100 --precision bf16

A row is the median over --steps steps, after five that are not counted (warm-up, and the capture of CUDA graphs); the
ratio is trials' steps per second against one trial by itself, in the same process. Data is the digits for the mlp and
the standard library's text for the gpt.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mutransfer.config.schema import RunConfig
from mutransfer.data import load_data
from mutransfer.training.learner import Learner
from mutransfer.training.pack import PackLearner

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {
        "model": {"kind": "mlp", "depth": 2, "base_width": 32},
        "data": {"kind": "digits"},
        "training": {"batch_size": 64},
        "hparams": {"optimizer": "sgd", "lr": 0.05},
    },
    "gpt": {
        "model": {"kind": "gpt", "depth": 2, "head_dim": 16, "base_width": 32},
        "data": {"kind": "text", "source": "python-stdlib", "seq_len": 64},
        "training": {"batch_size": 16},
        "hparams": {"optimizer": "adamw", "lr": 0.004},
    },
}


def timed(step: Callable[[int], Any], steps: int, device: torch.device, clock: Callable[[], float]) -> float:
    """Median seconds of a step."""
    times = []
    for at in range(steps + 5):
        began = clock()
        step(at)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - began)
    return statistics.median(times[5:])


def measure(
    config: RunConfig, size: int, steps: int, device: torch.device, clock: Callable[[], float], *, graphs: bool
) -> float | None:
    """Seconds per step and trial; None where memory does not suffice."""
    data, training = load_data(config.data), config.training
    batches = [data.batch(at, batch_size=training.batch_size, seed=0) for at in range(8)]
    try:
        if size == 1:
            alone = Learner(config, device)
            return timed(lambda at: alone.train_step(at, batches[at % 8]), steps, device, clock)
        pack = PackLearner([config] * size, device, graphs=graphs)
        return timed(lambda at: pack.train_step(at, [batches[at % 8]]), steps, device, clock) / size
    except torch.OutOfMemoryError:
        return None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", default="mlp,gpt")
    parser.add_argument("--widths", default="32,64,128")
    parser.add_argument("--sizes", default="1,4,8,16,32")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--no-graphs", action="store_true", help="packs without CUDA graphs, to see what these gain")
    parser.add_argument("--cpu-time", action="store_true", help="time on the CPU, for machines that do other work")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device, clock = torch.device(given.device), time.process_time if given.cpu_time else time.perf_counter
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{given.threads} CPU thread(s)"
    print(f"{name}, torch {torch.__version__}, {given.precision}; steps of one trial per second, and × one by one")
    found = []
    for model in given.models.split(","):
        for width in map(int, given.widths.split(",")):
            section = {**MODELS[model]["model"], "width": width}
            training = {**MODELS[model]["training"], "precision": given.precision}
            config = RunConfig.model_validate({**MODELS[model], "name": model, "model": section, "training": training})
            alone = None
            for size in map(int, given.sizes.split(",")):
                seconds = measure(config, size, given.steps, device, clock, graphs=not given.no_graphs)
                alone = seconds if size == 1 else alone
                ratio = alone / seconds if alone and seconds else None
                found.append({"model": model, "width": width, "size": size, "seconds": seconds, "ratio": ratio})
                rate = "out of memory" if seconds is None else f"{1 / seconds:10.0f}"
                print(f"{model} width {width:5} pack {size:4} {rate} {'' if ratio is None else f'{ratio:6.2f} ×'}")
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
