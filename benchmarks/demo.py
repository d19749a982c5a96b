"""The main job on the embedded default: sweep a narrow proxy, transfer the winner, train the wide target.

As a control, the same target is trained at the same steps with the hparams of the median proxy trial. Every
step is a command that can be typed; run it again and what is done is kept.

    python benchmarks/demo.py               # what make demo runs
    python benchmarks/demo.py --seeds 3     # target and control with further seeds, for BENCHMARKS.md
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CONFIG = "configs/proxy.yaml"
RUN = "gpt-stdlib"
WIDTH = "256"


def command(*arguments: str) -> None:
    """Show a mutransfer command and run it; a failure ends the demo with the command's own exit code."""
    print(f"\n$ mutransfer {' '.join(arguments)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "mutransfer", *arguments], check=False).returncode
    if code:
        sys.exit(code)


def status() -> dict[str, Any]:
    """What `mutransfer status --json` says of the run."""
    arguments = [sys.executable, "-m", "mutransfer", "status", RUN, "--json"]
    answer: dict[str, Any] = json.loads(subprocess.run(arguments, check=True, capture_output=True).stdout)
    return answer


def retrained(target: Path, seeds: int) -> list[float]:
    """Validation losses of a target trained again with seeds 1, 2, …; those trained before are kept."""
    losses = []
    for seed in range(1, seeds):
        arguments = ["train", str(target / "config.yaml"), "--set", f"training.seed={seed}", "--resume", "--json"]
        command = [sys.executable, "-m", "mutransfer", *arguments, "--out", str(target / f"seed-{seed}")]
        losses.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["validation_loss"])
    return losses


def main() -> None:
    """Run the demo; exit code 3 when the transferred target does not beat the control."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="seeds for the target and its control")
    seeds = parser.parse_args().seeds
    began = time.monotonic()
    command("sweep", CONFIG)
    command("transfer", "--run", RUN, "--width", WIDTH, "--launch")
    command("transfer", "--run", RUN, "--width", WIDTH, "--trial", "median", "--launch")

    found = status()
    ranking = sorted((trial for trial in found["trials"] if trial["value"] is not None), key=lambda t: t["value"])
    best, median = ranking[0], ranking[len(ranking) // 2]
    losses = {target["target"]: target["validation_loss"] for target in found["targets"]}
    transferred, control = (losses[f"w{WIDTH}-t{trial['number']}"] for trial in (best, median))
    folder = Path(found["path"])
    print(f"\nDone in {time.monotonic() - began:.0f} s. Validation losses, in nats per byte:")
    for what, loss, number in (
        (f"proxy, width 64, best of {len(ranking)} trials", best["value"], best["number"]),
        (f"target, width {WIDTH}, the same hparams", transferred, best["number"]),
        (f"target, width {WIDTH}, the median trial's hparams", control, median["number"]),
    ):
        print(f"  {what:46}{loss:.4f}  (trial {number})")
    print("Where everything lies:")
    for what, where in (
        ("trials", folder / "trials.csv"),
        ("winner", folder / "best.yaml"),
        ("target", folder / "targets" / f"w{WIDTH}-t{best['number']}"),
    ):
        print(f"  {what:8}{where}")
    margins = [control - transferred]
    if seeds > 1:
        targets = folder / "targets"
        ours = [transferred, *retrained(targets / f"w{WIDTH}-t{best['number']}", seeds)]
        theirs = [control, *retrained(targets / f"w{WIDTH}-t{median['number']}", seeds)]
        margins = [worse - better for better, worse in zip(ours, theirs, strict=True)]
        for what, values in (("target", ours), ("control", theirs), ("margin", margins)):
            spread = f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f} (standard deviation)"
            print(f"  {what} over {seeds} seeds: {spread}: {', '.join(f'{value:.4f}' for value in values)}")
    if min(margins) <= 0:
        print("The transferred target does not beat the control.")
        sys.exit(3)
    print(f"The transferred target beats the control by {min(margins):.4f}{' at least' if seeds > 1 else ''}.")


if __name__ == "__main__":
    main()
