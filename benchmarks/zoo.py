"""The coordinate check on other people's models: false alarms on right ones, faults found in wrong ones.

    pip install -e '.[zoo]'
    python benchmarks/zoo.py                    # under an hour on 2 cores
    python benchmarks/zoo.py --only "timm vit"  # models whose name contains that

Every model of `zoo_models.py` is checked with several seeds, as it is and with each fault of the tests that it can
have. Exit code 3 when more than 1 in 100 right models fail, or fewer than 99 in 100 wrong ones do.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))
# torchvision declares these in a library that loads only beside the torch it was built for. No model here uses them.
_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from zoo_models import CLASSES, LENGTH, SIZE, VOCABULARY, ZOO, Animal  # noqa: E402

from mutransfer.parametrization import roles  # noqa: E402
from mutransfer.parametrization.plan import Plan  # noqa: E402
from mutransfer.verification import subject as subjects  # noqa: E402
from mutransfer.verification.coord_check import CoordinateCheck, run_check  # noqa: E402
from mutransfer.verification.subject import ModuleSubject, Trainee, cross_entropy  # noqa: E402
from tests.verification.faults import FAULTS  # noqa: E402

BATCH, SEEDS = 8, 2


@dataclass(frozen=True)
class Case:
    """One check: a model, a fault or none, and the number of its seeds."""

    model: str
    fault: str | None
    repeat: int


class Seeded(ModuleSubject):
    """A subject whose seeds begin at another number, so that checks are independent."""

    first = 0

    def trainee(self, size: int, seed: int, parametrization: str) -> Trainee:
        """See `Subject`."""
        return super().trainee(size, self.first + seed, parametrization)


def data(animal: Animal, seed: int) -> tuple[Tensor, Tensor, Any]:
    """Inputs, targets and loss that can be learned: noisy prototypes of classes, tokens that follow each other."""
    draw = torch.Generator().manual_seed(1000 + seed)
    if animal.kind == "tokens":
        start, step = (torch.randint(1, high, (BATCH, 1), generator=draw) for high in (VOCABULARY, 4))
        tokens = (start + step * torch.arange(LENGTH + 1)) % VOCABULARY
        return tokens[:, :-1], tokens[:, 1:], cross_entropy
    shape = {
        "images": (3, SIZE, SIZE),
        "same": (3, SIZE, SIZE),
        "signals": (1, 64),
        "vectors": (64,),
        "graphs": (LENGTH, 8),
    }
    labels = torch.randint(0, CLASSES, (BATCH,), generator=draw)
    prototypes = torch.randn(CLASSES, *shape[animal.kind], generator=draw)
    inputs = prototypes[labels] + torch.randn(BATCH, *shape[animal.kind], generator=draw) / 2
    if animal.kind == "same" or animal.restores:
        return inputs, prototypes[labels], torch.nn.functional.mse_loss
    return inputs, labels, cross_entropy


def subject_of(animal: Animal, repeat: int) -> Seeded:
    """The model as the check takes it, with data and seeds of its own for every repeat."""
    inputs, targets, loss = data(animal, repeat)
    sizes = [animal.base * factor for factor in (1, 2, 4, 8) if animal.base * factor <= animal.most]
    made = Seeded(
        animal.build, batches=[(inputs, targets)], loss=loss, sizes=sizes, axis="width", base_width=animal.base,
        optimizer=animal.optimizer, lr=animal.lr, weight_decay=0.0, parametrization="mup",
        plan_options={"roles": animal.roles}, prepare=None, make_optimizer=None,
    )  # fmt: skip
    made.first = 100 * repeat
    return made


def check(case: Case) -> tuple[Case, CoordinateCheck | None, float]:
    """The check of one case; None where the fault changes nothing of this model's plan."""
    torch.set_num_threads(1)
    began, animal = time.monotonic(), ZOO[case.model]
    planned = roles.plan_for

    def faulty(*args: Any, **options: Any) -> Plan:
        return FAULTS[case.fault](planned(*args, **options)) if case.fault else planned(*args, **options)

    subject = subject_of(animal, case.repeat)
    right = subject.plan()
    subjects.plan_for = faulty  # type: ignore[attr-defined]
    try:
        if case.fault and subject.plan() == right:
            return case, None, 0.0
        adam = animal.optimizer != "sgd"
        found = run_check(subject, lr=animal.lr, adam=adam, seeds=SEEDS, control=False, finite=animal.finite)
    finally:
        subjects.plan_for = planned  # type: ignore[attr-defined]
    return case, found, time.monotonic() - began


def cases(only: str, repeats: int, faults: list[str]) -> Iterator[Case]:
    """Every model as it is with all repeats, then with every fault once."""
    models = [name for name in ZOO if only in name]
    yield from (Case(name, None, repeat) for repeat in range(repeats) for name in models)
    yield from (Case(name, fault, 0) for fault in faults for name in models)


def main() -> None:
    """Run the zoo; print a line per check and the two rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="models whose name contains TEXT")
    parser.add_argument("--repeats", type=int, default=3, help="checks of every right model, each with its own seeds")
    parser.add_argument("--faults", default=",".join(FAULTS), help="names of faults; empty for none")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write every verdict as JSON lines")
    given = parser.parse_args()
    asked = list(cases(given.only, given.repeats, [one for one in given.faults.split(",") if one]))
    right, wrong, alarms, found = 0, 0, 0, 0
    broken: list[Exception] = []
    with ProcessPoolExecutor(given.processes, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(check, one): one for one in asked}
        for done in as_completed(waiting):
            try:
                case, result, seconds = done.result()
            except Exception as error:
                broken.append(error)
                print(f"{waiting[done]} could not be checked: {type(error).__name__}: {error}", flush=True)
                continue
            if result is None:
                continue
            failed = result.outcome == "failed"
            if case.fault is None:
                right, alarms = right + 1, alarms + failed
            else:
                wrong, found = wrong + 1, found + failed
            flag = "" if failed == (case.fault is not None) else "  <-- WRONG"
            what = f"{case.model} | {case.fault or 'right'} {case.repeat} | {result.sentence} | {result.hint}"
            print(f"{what} | {seconds:.0f} s{flag}", flush=True)
            if given.out:
                with given.out.open("a") as file:
                    file.write(json.dumps({**asdict(case), "check": result.as_dict()}) + "\n")
    print(f"\n{len(ZOO)} models. False alarms: {alarms} of {right}. Faults found: {found} of {wrong}.")
    if broken or alarms > 0.01 * right or found < 0.99 * wrong:
        sys.exit(3)


if __name__ == "__main__":
    main()
