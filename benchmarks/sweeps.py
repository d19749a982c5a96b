"""`mutransfer sweep` against what people write themselves, side by side in one run on 2 CPU cores.

    python benchmarks/sweeps.py --tinyshakespeare input.txt --cifar10 train.parquet --ray-python RAYVENV/bin/python
    python benchmarks/sweeps.py --only W3 --trials 16 --repeats 1 --peers optuna-2      # a look

The peers are benchmarks/peers/optuna_mup.py (one process with the better of 1 and 2 threads, which a few trials tell;
two processes on one SQLite study) and benchmarks/peers/ray_mup.py. Same architecture, data, batches, steps, search
ranges and validation; every trial runs to its end. Each is timed as a whole command with its start-up, in an order
that turns with every repeat; ratios are those of the medians. mutransfer runs three times: `mutransfer` skips the
quick coordinate check, which the peers lack, `mutransfer-check` does not, `mutransfer-early` stops what diverges
(with --early-set, whatever else a config may turn on to stop trials early).

A workload whose data is not given is skipped, and so is Ray where --ray-python (this Python when left out) has none.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from peers.workloads import SEED, WORKLOADS, Workload

PEERS = Path(__file__).resolve().parent / "peers"
ROOT = PEERS.parents[1]
OURS = ("mutransfer", "mutransfer-check", "mutransfer-early")
PEER_NAMES = ("optuna-1", "optuna-2", "ray")
RAY_GOAL = 2.2
EARLY_GOAL = 3.0
LARGE = [[1024, 1024, 1024, 3]]
PROBED_TRIALS = {"gpt": 1, "mlp": 4}


@dataclass(frozen=True)
class Run:
    """One timed command."""

    contender: str
    seconds: float
    cpu_seconds: float
    """Of all its processes that were waited for; Ray's are not."""
    trials: int
    diverged: int
    validation_loss: float | None
    """Of its best trial."""
    hparams: dict[str, float]
    """Its best trial's."""


@dataclass(frozen=True)
class Setting:
    """What the options say, and what has been measured of one workload."""

    workload: Workload
    data: Path | None
    trials: int
    ray_python: str
    early: tuple[str, ...]
    fused: bool
    threads: int = 1
    """Of the one-process peer."""


def command(contender: str, setting: Setting, folder: Path) -> tuple[list[str], int]:
    """The command of a contender, and the threads of each of its processes."""
    workload = setting.workload
    if contender in OURS:
        config = folder / f"{workload.name}.yaml"
        config.write_text(yaml.safe_dump(workload.config(setting.data, setting.trials), sort_keys=False))
        arguments = [sys.executable, "-m", "mutransfer", "sweep", str(config), "--runs", str(folder), "--json"]
        arguments += [] if contender == "mutransfer-check" else ["--no-check"]
        early = ("training.divergence_factor=3.0", *setting.early) if contender == "mutransfer-early" else ()
        return arguments + [word for one in early for word in ("--set", one)], 1
    python = setting.ray_python if contender == "ray" else sys.executable
    script = PEERS / ("ray_mup.py" if contender == "ray" else "optuna_mup.py")
    arguments = [python, str(script), workload.name, "--trials", str(setting.trials), "--out", str(folder)]
    arguments += ["--data", str(setting.data)] if setting.data else []
    arguments += ["--fused"] if setting.fused else []
    if contender == "optuna-1":
        return [*arguments, "--threads", str(setting.threads)], setting.threads
    return arguments + (["--processes", "2"] if contender == "optuna-2" else []), 1


def environment(threads: int) -> dict[str, str]:
    """What a contender's process is started with."""
    count, path = str(threads), os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "PYTHONPATH": path}


def call(arguments: list[str], threads: int) -> str:
    """Run a command to its end; its stdout.

    Raises:
        RuntimeError: it failed, with the end of what it said.
    """
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, env=environment(threads))
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return done.stdout


def timed(contender: str, setting: Setting) -> Run:
    """Time one contender's whole command."""
    # What an earlier run measured is not to shorten the next; images that it decoded may.
    shutil.rmtree(Path(os.environ["MUTRANSFER_CACHE"], "shapes"), ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="sweeps-") as name:
        arguments, threads = command(contender, setting, Path(name))
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        said = call(arguments, threads)
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = json.loads(said if contender in OURS else said.strip().splitlines()[-1])
    if contender in OURS:
        best, outcomes = answer["best"], answer["outcomes"]
        answer |= {"diverged": answer["trials"] - outcomes.get("completed", 0), "hparams": best["swept"],
                   "validation_loss": best["validation_loss"]}  # fmt: skip
    return Run(
        contender=contender,
        seconds=seconds,
        cpu_seconds=(after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime),
        trials=answer["trials"],
        diverged=answer["diverged"],
        validation_loss=answer["validation_loss"],
        hparams=answer["hparams"] or {},
    )


def point(setting: Setting, hparams: dict[str, float]) -> float:
    """The `mup` peer's validation loss at these hparams."""
    arguments, threads = command("optuna-2", setting, Path(tempfile.gettempdir()))
    answer = json.loads(call([*arguments, "--point", json.dumps(hparams)], threads))
    return float(answer["validation_loss"])


def same_work(setting: Setting) -> dict[str, float]:
    """How far the losses of mutransfer and the `mup` peer part from the same weights, on the same batches."""
    arguments = [sys.executable, str(PEERS / "same.py"), setting.workload.name]
    arguments += ["--data", str(setting.data)] if setting.data else []
    answer: dict[str, float] = json.loads(call(arguments, 1))
    print(
        f"{setting.workload.name}: from the same weights the losses of mutransfer and the mup peer differ by at most "
        f"{answer['largest_difference']:.1e} of their size over {answer['steps']} steps"
    )
    return answer


def better_threads(setting: Setting) -> int:
    """1 or 2 threads for the one-process peer: whichever trains a few trials faster."""
    seconds = {}
    for threads in (1, 2):
        probe = Setting(**{**vars(setting), "trials": PROBED_TRIALS[setting.workload.kind], "threads": threads})
        with tempfile.TemporaryDirectory(prefix="sweeps-") as name:
            answer = json.loads(call(*command("optuna-1", probe, Path(name))))
        seconds[threads] = answer["seconds"] / probe.trials
    best = min(seconds, key=seconds.__getitem__)
    print(
        f"{setting.workload.name}: optuna-1 gets {best} thread(s): "
        f"{seconds[1]:.2f} s a trial with 1, {seconds[2]:.2f} with 2"
    )
    return best


def work_of(setting: Setting) -> tuple[float, list[list[int]]]:
    """FLOPs of matrix products in one training run that cannot be left out, and the shapes they come in."""
    from mutransfer.config.data import TokenSpec
    from mutransfer.config.schema import RunConfig
    from mutransfer.models import plan_of
    from mutransfer.transfer.cost import estimate

    config = RunConfig.model_validate(setting.workload.config(setting.data, setting.trials))
    plan, spec = plan_of(config), config.data.spec
    rows = config.training.batch_size * (spec.seq_len if isinstance(spec, TokenSpec) else 1)
    flops, shapes = estimate(config, plan).flops_per_step, []
    for name, one in plan.parameters.items():
        if one.multiplies:
            fan_out, fan_in = one.shape
            first = name in plan.entrances
            shapes.append([rows, fan_in, fan_out, 2 if first else 3])
            flops -= 2 * rows * fan_in * fan_out if first else 0  # the data needs no gradient
    return float(flops * config.training.steps), shapes


def rate(shapes: list[list[int]], library: str, *, processes: int, threads: int) -> float:
    """GFLOP/s of matrix products, the sum of `processes` at a time."""
    arguments = [sys.executable, str(PEERS / "matmul.py"), "--library", library]
    arguments += ["--threads", str(threads), "--shapes", json.dumps(shapes)]
    running = [
        subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment(threads))
        for _ in range(processes)
    ]
    return sum(float(json.loads(one.communicate()[0])["gflops"]) for one in running)


def rates(shapes: list[list[int]]) -> dict[str, float]:
    """The machine's rate with one thread, two threads, two processes of one thread, by either library of torch's."""
    ways = {"1 thread": (1, 1), "2 threads": (1, 2), "2 processes": (2, 1)}
    return {
        f"{library}, {what}": rate(shapes, library, processes=processes, threads=threads)
        for library in ("mkl", "onednn")
        for what, (processes, threads) in ways.items()
    }


def measure(setting: Setting, contenders: list[str], repeats: int) -> Iterator[Run]:
    """Every contender `repeats` times, the order turned by one each time; one that fails is left out from then on."""
    names = list(contenders)
    for repeat in range(repeats):
        turn = repeat % len(contenders)
        for contender in contenders[turn:] + contenders[:turn]:
            if contender not in names:
                continue
            try:
                run = timed(contender, setting)
            except (RuntimeError, ValueError, KeyError) as error:
                print(f"{setting.workload.name}: {contender} is left out: {error}", flush=True)
                names.remove(contender)
                continue
            print(f"{setting.workload.name}: {contender:17}{run.seconds:8.2f} s", flush=True)
            yield run


def benchmark(setting: Setting, contenders: list[str], repeats: int) -> dict[str, Any]:
    """Measure one workload and print its table; what goes into the JSON file."""
    workload = setting.workload
    print(
        f"\n{workload.name}: {workload.kind} of width {workload.width}, {workload.steps} steps, {setting.trials} trials"
    )
    if "optuna-1" in contenders:
        setting = Setting(**{**vars(setting), "threads": better_threads(setting)})
    same_steps = same_work(setting)
    flops, shapes = work_of(setting)
    own, large = rates(shapes), rates(LARGE)
    for what, found in (("its own shapes", own), ("1024³", large)):
        print(
            f"{workload.name}: GFLOP/s of matrix products at {what}: "
            + ", ".join(f"{g:.0f} ({k})" for k, g in found.items())
        )
    runs = list(measure(setting, contenders, repeats))
    medians = {
        name: statistics.median(run.seconds for run in runs if run.contender == name)
        for name in contenders
        if any(run.contender == name for run in runs)
    }
    last = {run.contender: run for run in runs}
    total = flops * setting.trials / 1e9
    limits = {"own": total / max(own.values()), "large": total / max(large.values())}
    print(
        f"{workload.name}: {flops / workload.steps / 1e6:.1f} MFLOP a step; at the rate of its own shapes the sweep "
        f"takes {limits['own']:.2f} s, at that of large ones {limits['large']:.2f} s"
    )
    head = ("contender", "median", "range", "a trial", "CPU", "own", "large", "diverged", "best loss")
    line = "{:18}{:>10}{:>17}{:>10}{:>9}{:>7}{:>7}{:>10}{:>11}"
    print(line.format(*head))
    for name, median in medians.items():
        seconds = [run.seconds for run in runs if run.contender == name]
        loss = last[name].validation_loss
        print(
            line.format(
                name, f"{median:.2f} s", f"{min(seconds):.2f}–{max(seconds):.2f}", f"{median / setting.trials:.3f} s",
                f"{statistics.median(run.cpu_seconds for run in runs if run.contender == name):.1f} s",
                f"{limits['own'] / median:.0%}", f"{limits['large'] / median:.0%}",
                last[name].diverged, "none" if loss is None else f"{loss:.4f}",
            )
        )  # fmt: skip
    ratios = ratios_of(workload, medians)
    for text in ratios["words"]:
        print(text)
    same = None
    if "mutransfer" in last and last["mutransfer"].validation_loss is not None:
        theirs = point(setting, last["mutransfer"].hparams)
        same = {"mutransfer": last["mutransfer"].validation_loss, "mup": theirs}
        print(
            f"{workload.name}: at mutransfer's best hparams it ends at {same['mutransfer']:.4f}, "
            f"the peers with initial weights of their own at {theirs:.4f}"
        )
    return {
        "trials": setting.trials, "optuna_1_threads": setting.threads, "flops_per_run": flops, "gflops_own": own,
        "gflops_large": large, "limit_seconds": limits, "medians": medians, "ratios": ratios["numbers"],
        "same_hparams": same, "same_weights": same_steps, "runs": [asdict(run) for run in runs],
    }  # fmt: skip


def ratios_of(workload: Workload, medians: dict[str, float]) -> dict[str, Any]:
    """How many times faster than the best peer and than Ray each of ours is, with what was asked for."""
    peers = {name: seconds for name, seconds in medians.items() if name in PEER_NAMES}
    words, numbers = [], {}
    for ours in (name for name in OURS if name in medians and peers):
        best = min(peers, key=peers.__getitem__)
        numbers[ours] = {name: seconds / medians[ours] for name, seconds in peers.items()}
        goal = EARLY_GOAL if ours == "mutransfer-early" else workload.goal
        against = f"{numbers[ours][best]:.2f}× the best peer, {best} (goal {goal}×)"
        if "ray" in peers:
            against += f", {numbers[ours]['ray']:.2f}× Ray Tune (goal {RAY_GOAL}×)"
        words.append(f"{workload.name}: {ours} is {against}")
    return {"words": words, "numbers": numbers}


def has_ray(python: str) -> bool:
    """Whether this Python can import what the Ray peer needs."""
    wanted = "import ray.tune, mup, torch"
    try:
        done = subprocess.run([python, "-c", wanted], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except OSError as error:
        print(f"The Ray peer is left out: {python}: {error.strerror}")
        return False
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        print(f"The Ray peer is left out: {python} has no Ray Tune ({reason}); --ray-python names one that has")
    return done.returncode == 0


def chosen(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """A comma-separated option whose words must be `known`."""

    def parse(text: str) -> list[str]:
        words = [word for word in text.split(",") if word]
        for word in words:
            if word not in known:
                raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(known)}")
        return words

    return parse


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tinyshakespeare", type=Path, help="the text file, for W1")
    parser.add_argument("--cifar10", type=Path, help="the parquet file of CIFAR-10's training part, for W2")
    parser.add_argument("--only", type=chosen(tuple(WORKLOADS)), default=list(WORKLOADS), help="workloads, with commas")
    parser.add_argument("--trials", type=int, help="fewer trials than the workload's own")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ours", type=chosen(OURS), default=list(OURS), help="with commas")
    parser.add_argument("--peers", type=chosen(PEER_NAMES), default=list(PEER_NAMES), help="with commas")
    parser.add_argument("--ray-python", default=sys.executable, help="a Python with ray[tune], torch and mup")
    parser.add_argument("--early-set", action="append", default=[], help="--set of mutransfer-early")
    parser.add_argument("--fused", action="store_true", help="the peers use torch's fused optimizers")
    parser.add_argument("--cores", type=int, default=2, help="CPU cores for everything")
    parser.add_argument("--out", type=Path, default=Path("runs/sweeps.json"), help="where the numbers go")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))  # this checkout's mutransfer, whichever one is installed
    if importlib.util.find_spec("mup") is None:
        parser.error("the peers need the package mup: pip install 'mutransfer[dev]'")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])
    contenders = [*given.ours, *(name for name in given.peers if name != "ray" or has_ray(given.ray_python))]
    with tempfile.TemporaryDirectory(prefix="sweeps-cache-") as cache:
        os.environ["MUTRANSFER_CACHE"] = cache
        run_workloads(given, contenders)


def run_workloads(given: argparse.Namespace, contenders: list[str]) -> None:
    """Every workload that there is data for, and the file of numbers."""
    found: dict[str, Any] = {"seed": SEED, "load_average": os.getloadavg(), "workloads": {}}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        workload = WORKLOADS[name]
        data = (
            getattr(given, workload.data_option).resolve()
            if workload.data_option and getattr(given, workload.data_option)
            else None
        )
        if workload.data_option and (data is None or not data.is_file()):
            print(f"{name} is skipped: --{workload.data_option} {'names no file' if data else 'is not given'}")
            continue
        setting = Setting(
            workload, data, given.trials or workload.trials, given.ray_python, tuple(given.early_set), given.fused
        )
        found["workloads"][name] = benchmark(setting, contenders, given.repeats)
        given.out.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\nNumbers: {given.out}")


if __name__ == "__main__":
    main()
