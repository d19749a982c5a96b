"""The main job on the embedded default: sweep a narrow proxy, transfer the winner, train the wide target.

As a control, the same target is trained at the same steps with the hparams of the median proxy trial. Every
step is a command that can be typed; run it again and what is done is kept.

    python benchmarks/demo.py
"""

from __future__ import annotations

import json
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


def main() -> None:
    """Run the demo; exit code 3 when the transferred target does not beat the control."""
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
    if transferred >= control:
        print("The transferred target does not beat the control.")
        sys.exit(3)
    print(f"The transferred target beats the control by {control - transferred:.4f}.")


if __name__ == "__main__":
    main()
