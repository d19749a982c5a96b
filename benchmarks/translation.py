"""Multi30k: hparams found on a narrow encoder–decoder, used at 8 times the width; sp with the proxy's as the control.

    python benchmarks/translation.py --data PATH/multi30k [--out FOLDER]

Sweeps the proxy, transfers its winner, trains the target, and trains the same width in sp with the same hparams. Prints
validation loss and BLEU (sacreBLEU, beam 4, test part) of the proxy and of both. Run again it continues.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from mutransfer.config.load import load_config
from mutransfer.config.schema import RunConfig
from mutransfer.errors import Interrupted
from mutransfer.executors.devices import single_device, worker_devices
from mutransfer.executors.local import LocalExecutor
from mutransfer.signals import stop_on_signals
from mutransfer.sweep.coordinator import run_sweep
from mutransfer.training.folder import TrainFolder
from mutransfer.training.run import train
from mutransfer.transfer.target import Overrides, make_target

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "seq2seq-multi30k.yaml"


def main() -> None:
    """Sweep, transfer, train twice, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of train, validation and test.jsonl")
    parser.add_argument("--out", type=Path, default=Path("runs/translation"))
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--pack", type=int, help="trials that a worker trains at once; measured when left out")
    parser.add_argument("--set", action="append", default=[], dest="sets", help="further changes of the config")
    given = parser.parse_args()
    files = {"path": "train", "validation": "validation", "test": "test"}
    sets = [f"data.{field}={given.data / name}.jsonl" for field, name in files.items()]
    sets += [f"training.steps={given.steps}", f"model.depth={given.depth}", f"search.trials={given.trials}"]
    sets += ["search.confirm={top: 0}", "search.space.lr={log_uniform: [2e-3, 3e-2]}"]
    proxy = load_config(CONFIG, [*sets, *given.sets])
    with stop_on_signals() as stopping:
        swept = run_sweep(
            proxy,
            runs=given.out,
            executor=lambda: LocalExecutor(worker_devices(workers=given.workers, threads=1)),
            should_stop=stopping,
            pack=given.pack,
        )
        target = make_target(swept.folder, Overrides(width=given.width)).config
        sp = target.model_copy(update={"name": f"{target.name}-sp", "parametrization": "sp"})
        narrow = target.model_copy(
            update={"name": f"{target.name}-proxy", "model": target.model.at_width(proxy.model.width)}
        )
        print(f"winner of {given.trials} trials: {json.dumps(swept.selection.best.params)}", flush=True)
        for label, config in (("proxy", narrow), ("mup", target), ("sp", sp)):
            report(label, config, given.out, stopping)


def report(label: str, config: RunConfig, out: Path, stopping: Callable[[], bool]) -> None:
    """Train one run and print what it came to."""
    result = train(
        config,
        TrainFolder(out / "trained" / config.name),
        device=single_device().torch_name,
        resume=True,
        should_stop=stopping,
    )
    if result.outcome == "interrupted":
        raise Interrupted("stopped; the same command continues")
    loss = "–" if result.validation_loss is None else f"{result.validation_loss:.4f}"
    bleu = result.metrics.get("bleu")
    print(
        f"{label:5} width {config.model.width:4}: {result.outcome}, {result.parameters:,} parameters, validation loss "
        f"{loss}, BLEU {'–' if bleu is None else f'{bleu:.2f}'}, {result.seconds:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    try:
        main()
    except Interrupted as stopped:
        sys.exit(f"{stopped}")
