"""The transfer checks quoted in BENCHMARKS.md: µP with sp beside it, each a command that can be typed.

    python benchmarks/transfer_check.py gpt --data PATH/tinyshakespeare.txt     # without --data: the standard library
    python benchmarks/transfer_check.py mlp --data PATH/train.parquet           # CIFAR-10 (extra `vision`)

Run again it continues, and with more --sizes, --seeds or values it adds to what is there, so that a long check can
be run in parts. The exit code is the check's: 0 passed, 3 failed or undecided, 4 interrupted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import Any

CHECKS: dict[str, dict[str, Any]] = {
    "gpt": {"config": "configs/proxy.yaml", "sizes": "64,128,256,512,1024", "grid": "0.00048828125:0.03125",
            "steps": 200, "sets": ()},
    "mlp": {"config": "configs/mlp-cifar10.yaml", "sizes": "128,256,512,1024,2048,4096",
            "grid": "0.00048828125:0.25", "steps": 500,
            # TP-V Figure 3: plain SGD, constant lr, training loss; its 20 epochs of 50,000 images cut to 3.2 of 10,000.
            # As there, multipliers on input and output are tuned at the base, so that the first layer, whose inputs
            # are 3,072 numbers, does not decide which lr is too large.
            "sets": ("hparams.momentum=0.0", "hparams.schedule=constant", "hparams.warmup=0.0",
                     "hparams.temperature=0.0625", "hparams.embedding_lr=0.00390625", "data.limit=10000",
                     "search.objective=training_loss")},
}  # fmt: skip


def main() -> None:
    """Put the command together, show it, run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=CHECKS)
    parser.add_argument("--data", nargs="+", help="text files of the gpt, or the parquet file of the mlp")
    parser.add_argument("--sizes", help="widths, with commas")
    parser.add_argument("--grid", help="LOW:HIGH of lr in octaves")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", help="folder of the check")
    given = parser.parse_args()
    check = CHECKS[given.model]
    command = ["transfer-check", str(check["config"]), "--sizes", given.sizes or str(check["sizes"])]
    command += ["--grid", given.grid or str(check["grid"]), "--seeds", str(given.seeds)]
    command += ["--set", f"training.steps={given.steps or check['steps']}"]
    for one in check["sets"]:
        command += ["--set", one]
    if given.model == "gpt" and given.data:
        command += ["--set", f"data={{kind: text, seq_len: 64, paths: [{', '.join(map(repr, given.data))}]}}"]
    elif given.model == "mlp":
        if not given.data or len(given.data) > 1:
            parser.error("mlp needs --data with the parquet file of CIFAR-10's training part")
        command += ["--set", f"data.path={given.data[0]}"]
    for option in ("workers", "out"):
        if getattr(given, option) is not None:
            command += [f"--{option}", str(getattr(given, option))]
    print(f"$ mutransfer {' '.join(command)}", flush=True)
    began = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "mutransfer", *command], check=False).returncode
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(code)


if __name__ == "__main__":
    main()
