"""The coordinate check, checked: µP's slopes at 16 times the width, `sp`'s, planted faults, false alarms.

    python benchmarks/coordinate_check.py             # about a quarter of an hour on one core
    python benchmarks/coordinate_check.py --quick     # fewer and narrower

Exit code 3 when µP fails somewhere, `sp` does not, a fault is missed, or a seed raises a false alarm.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mutransfer.config.load import load_config  # noqa: E402
from mutransfer.config.schema import RunConfig  # noqa: E402
from mutransfer.verification import CoordinateCheck, check_config, coord_words, coordinate_check  # noqa: E402
from mutransfer.verification.coordinates import Measurements, measure  # noqa: E402
from mutransfer.verification.subject import ConfigSubject  # noqa: E402
from mutransfer.verification.verdict import ModuleVerdict, judge  # noqa: E402
from tests.verification.faults import FAULTS, Net, Planted  # noqa: E402

_ADAM = ("hparams.optimizer=adam", "hparams.momentum=null", "hparams.lr=0.004")
_GPT, _MLP = "configs/proxy.yaml", "configs/mlp-digits.yaml"
_FACTORS = (1, 2, 4, 8, 16)


def configured(path: str, *changes: str) -> RunConfig:
    """A shipped config, changed."""
    return load_config(ROOT / path, changes)


def steepest(modules: Sequence[ModuleVerdict], quantity: str) -> str:
    """The largest |slope| of a quantity (readouts and attention logits at init aside), with its module."""
    found = [
        (getattr(one, quantity).value, one.module)
        for one in modules
        if getattr(one, quantity) is not None
        and not (quantity == "size" and one.kind in ("readout", "attention logits"))
    ]
    value, module = max(found, key=lambda pair: abs(pair[0]), default=(0.0, "none"))
    return f"{value:+.2f} ({module})"


def slopes(base: int, seeds: int) -> bool:
    """µP and sp of every shipped kind."""
    narrow = (f"model.base_width={base}", f"model.width={base}", "training.batch_size=4")
    subjects = {
        "gpt, adamw, head_dim 16": configured(_GPT, *narrow),
        "gpt, adamw, 4 heads": configured(_GPT, *narrow, "model.head_dim=null", "model.heads=4"),
        "mlp, sgd": configured(_MLP),
        "mlp, adam": configured(_MLP, *_ADAM),
    }
    good = True
    print("\n| model | widths | modules | steepest size | steepest change | own update | sp fails in | sp's change |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, config in subjects.items():
        began = time.monotonic()
        check = check_config(config, seeds=seeds)
        control = check.control or ()
        good &= check.passed
        print(
            f"| {name} | {check.sizes[0]}–{check.sizes[-1]} | {len(check.modules)} {check.outcome} | "
            f"{steepest(check.modules, 'size')} | {steepest(check.modules, 'change')} | "
            f"{steepest(check.modules, 'update')} | {sum(one.outcome == 'fail' for one in control)} of {len(control)} |"
            f" {steepest(control, 'change')} |",
            flush=True,
        )
        print(f"{name}: {check.sentence}; {time.monotonic() - began:.0f} s", file=sys.stderr)
    return good


def net_check(**options: Any) -> CoordinateCheck:
    """A check of the tests' module."""
    tokens = torch.randint(0, 16, (8, 9), generator=torch.Generator().manual_seed(0))
    asked: dict[str, Any] = {"factory": Net, "seeds": 2, "base_width": 32, "lr": 4e-3, "control": False, **options}
    return coordinate_check(asked.pop("factory"), inputs=tokens[:, :-1], targets=tokens[:, 1:], **asked)


def faults() -> bool:
    """Every planted fault on every model that it is possible in."""
    gpt = configured(
        _GPT, "model.base_width=32", "model.width=32", "model.depth=1", "training.batch_size=2",
        "model.head_dim=null", "model.heads=2",
    )  # fmt: skip
    subjects = {"gpt adamw": gpt, "mlp sgd": configured(_MLP), "mlp adam": configured(_MLP, *_ADAM)}
    caught, tried = 0, 0
    print("\n| fault | model | verdict | first | hint |\n| --- | --- | --- | --- | --- |")

    def report(fault: str, model: str, check: CoordinateCheck) -> None:
        nonlocal caught, tried
        tried += 1
        caught += check.outcome == "failed"
        print(f"| {fault} | {model} | {check.outcome} | {check.culprit} | {check.hint} |", flush=True)

    for fault in FAULTS:
        for model, config in subjects.items():
            if fault.startswith("attention") and model != "gpt adamw":
                continue
            with pytest.MonkeyPatch.context() as monkeypatch:
                Planted(monkeypatch)(fault)
                report(fault, model, check_config(config, seeds=2, control=False))
    stuck = net_check(factory=lambda width: Net(width, inner=48), plan_options={"zero_readout": False})
    report("a dimension does not grow", "own module", stuck)
    missing = net_check(
        prepare=lambda model, width: None,
        make_optimizer=lambda model, width: torch.optim.AdamW(
            [one for name, one in model.named_parameters() if name != "down.weight"], lr=4e-3 * 32 / width
        ),
    )
    report("down.weight is missing from the optimizer", "own module", missing)
    print(f"\n{caught} of {tried} caught")
    return caught == tried


def false_alarms(base: int, checks: int) -> bool:
    """Independent checks, each with three seeds of its own and none added."""
    alarms = 0
    narrow = (f"model.base_width={base}", f"model.width={base}", "model.depth=1", "training.batch_size=2")
    subjects = {
        "mlp sgd": configured(_MLP),
        "mlp adam": configured(_MLP, *_ADAM),
        "gpt adamw": configured(_GPT, *narrow),
    }
    print()
    for name, config in subjects.items():
        subject = ConfigSubject(config, sizes=[config.model.base_width * factor for factor in _FACTORS])
        raised = []
        for number in range(checks):
            one = Measurements("mup", "width", subject.sizes, 8)
            measure(subject, one, seeds=range(3 * number, 3 * number + 3))
            verdicts = judge(one, threshold=0.1, plan=subject.plan(), final=True)
            raised += [
                f"check {number}: {v.module} {', '.join(map(coord_words.reason, v.reasons))}"
                for v in verdicts
                if v.outcome == "fail"
            ]
        wrong = len({text.partition(":")[0] for text in raised})
        alarms += wrong
        print(f"{name}, base width {config.model.base_width}: {wrong} of {checks} checks raise a false alarm")
        for text in raised:
            print(f"  {text}", flush=True)
    return alarms == 0


def main() -> None:
    """Run all three; exit code 3 when any disappoints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and narrower, for a look")
    parser.add_argument("--only", choices=["faults", "slopes", "alarms"], help="one part")
    given = parser.parse_args()
    quick, only = given.quick, given.only
    torch.set_num_threads(1)
    base = 32 if quick else 64
    parts = {
        "faults": faults,
        "slopes": lambda: slopes(base, 2 if quick else 3),
        "alarms": lambda: false_alarms(base, 4 if quick else 20),
    }
    good = [part() for name, part in parts.items() if only in (None, name)]
    if not all(good):
        sys.exit(3)


if __name__ == "__main__":
    main()
