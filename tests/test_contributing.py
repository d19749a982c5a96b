"""CONTRIBUTING.md's lists are complete: toys of every kind are added to a copy of the package by following them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
KINDS = re.findall(r"^### Adding an? (.+)$", PAGE, flags=re.M)
NEW = "toy"
BEFORE = ("def batch_lr", "COMMAND = TrainerFacts(", "    init, lr = 1.0, 1.0\n")
"""What a toy adds stands in front of these texts, and behind all others."""

# What is written into each file: a whole new file, or (text of the file, text to add to it).
TOYS: dict[str, dict[str, str | tuple[str, str]]] = {
    "model": {
        "mutransfer/config/models/toy.py": '''
from typing import Literal
from mutransfer.config.models.base import BaseModelSection

class ToySection(BaseModelSection):
    """One hidden layer."""
    implementation = "mutransfer.models.toy:Toy"
    consumes = "classes"
    kind: Literal["toy"]
    """Model kind."""
''',
        "mutransfer/config/models/__init__.py": (
            '"mlp": "mutransfer.config.models.mlp:MLPSection",',
            '"toy": "mutransfer.config.models.toy:ToySection",',
        ),
        "mutransfer/models/toy.py": """
from torch import nn

class Toy(nn.Sequential):
    def __init__(self, section, spec):
        super().__init__(nn.Flatten(), nn.Linear(spec.features, section.width), nn.Linear(section.width, spec.classes))
""",
    },
    "data source": {
        "mutransfer/config/data/toy.py": '''
from typing import Literal
from mutransfer.config.data.base import BaseDataSection, ClassSpec

class ToySection(BaseDataSection):
    """Points and the quadrant that they lie in."""
    implementation = "mutransfer.data.toy:load"
    kind: Literal["toy"]
    """Data kind."""

    @property
    def spec(self):
        return ClassSpec(shape=(2,), classes=4)
''',
        "mutransfer/config/data/__init__.py": (
            '"digits": "mutransfer.config.data.digits:DigitsSection",',
            '"toy": "mutransfer.config.data.toy:ToySection",',
        ),
        "mutransfer/data/toy.py": """
import numpy as np
from mutransfer.data.dataset import ClassDataset

def load(section):
    points = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    return ClassDataset(points, (points > 0) @ np.array([1, 2]), classes=4, label="toy",
                        validation_fraction=section.validation_fraction)
""",
    },
    "executor": {
        "mutransfer/config/executors/toy.py": '''
from typing import Literal
from mutransfer.config.executors.base import BaseExecutorSection

class ToySection(BaseExecutorSection):
    """Counts its jobs."""
    implementation = "mutransfer.executors.toy:build"
    can_end_jobs = False
    kind: Literal["toy"]
    """Executor kind."""
''',
        "mutransfer/config/executors/__init__.py": (
            '"inline": "mutransfer.config.executors.inline:InlineSection",',
            '"toy": "mutransfer.config.executors.toy:ToySection",',
        ),
        "mutransfer/executors/toy.py": """
from mutransfer.executors.devices import single_device
from mutransfer.executors.inline import InlineExecutor

JOBS = []

class ToyExecutor(InlineExecutor):
    def submit(self, job):
        JOBS.append(job.target)
        return super().submit(job)

def build(section, *, threads, workers, warm_up):
    return ToyExecutor(single_device())
""",
    },
    "optimizer": {
        "mutransfer/optimizers/toy.py": """
from mutransfer.optimizers.base import Optimizer

def build(groups):
    import torch
    return torch.optim.NAdam(groups)

TOY = Optimizer(name="toy", family="adam", build=build, own_hparams={"beta1": 0.9, "beta2": 0.99, "eps": 1e-8},
                copies=4, most_lr=1e-3)
""",
        "mutransfer/optimizers/__init__.py": (
            '"sgd": "mutransfer.optimizers.sgd:SGD",',
            '"toy": "mutransfer.optimizers.toy:TOY",',
        ),
    },
    "hparam": {
        "mutransfer/config/hparams.py": (
            '    """Multiplies the lr of biases."""',
            '\n    toy_lr: Factor = 1.0\n    """Multiplies every lr."""',
        ),
        "mutransfer/parametrization/settings.py": (
            "lr *= hparams.embedding_lr if enters else 1.0",
            "\n    lr *= hparams.toy_lr",
        ),
    },
    "rule": {
        "mutransfer/config/rules.py": (
            '    """Transfer over the number of steps."""',
            '\n    toy: float | None = None\n    """Multiplies every lr by this to the power of two."""',
        ),
        "mutransfer/parametrization/rules.py": (
            "def batch_lr",
            "def toy_lr(base: float) -> float:\n    return base**2\n\n\n",
        ),
        "mutransfer/parametrization/options.py": (
            "    init, lr = 1.0, 1.0\n",
            "    if chosen.toy is not None:\n        factor *= rules.toy_lr(chosen.toy)\n",
        ),
    },
    "command": {
        "mutransfer/cli/toy.py": 'def run() -> None:\n    """Say hello."""\n    print("hello")\n',
        "mutransfer/cli/__init__.py": ('"init", ', '"toy", '),
    },
    "export": {
        "mutransfer/transfer/export/toy.py": """
from mutransfer.transfer.export.base import Export

def export(config, *, force=False):
    return Export("toy", f"lr={config.hparams.lr}", {"lr": config.hparams.lr}, ())
""",
        "mutransfer/transfer/export/__init__.py": (
            '"json": "mutransfer.transfer.export.plain:export",',
            '"toy": "mutransfer.transfer.export.toy:export",',
        ),
    },
    "trainer": {
        "mutransfer/config/trainer.py": (
            "COMMAND = TrainerFacts(",
            'TOY = TrainerFacts(\n    "toy", packs=False, inspectable=False, resumes=False, several_devices=False, '
            "watched=False, project_data=True\n)\n",
        ),
        "mutransfer/training/trainers/toy.py": """
from mutransfer.config.trainer import TOY
from mutransfer.training.trainers.base import Trainer

class ToyTrainer(Trainer):
    facts = TOY
    def require_run(self, config, folder, *, device): pass
    def require_trials(self, config, folder): pass
    def train(self, config, folder, *, device, watch): raise NotImplementedError
    def train_trials(self, configs, folders, *, device, threads, packed, watch): raise NotImplementedError
""",
        "mutransfer/training/trainers/__init__.py": (
            '"command": "mutransfer.training.trainers.command:CommandTrainer",',
            '"toy": "mutransfer.training.trainers.toy:ToyTrainer",',
        ),
    },
}

# Uses every toy in a fresh process; each check ends with a value that only the toy can give.
USE = """
import json, sys, traceback
from pathlib import Path
from mutransfer.config.schema import RunConfig
from mutransfer.config.trainer import TrainerFacts

def config(**changes):
    plain = {"name": "toy", "model": {"kind": "mlp", "width": 32, "base_width": 16}, "data": {"kind": "toy"},
             "training": {"steps": 3, "batch_size": 4, "eval_batches": 1}}
    return RunConfig.model_validate({**plain, **changes})

def trained(made, name):
    from mutransfer.training.folder import TrainFolder
    from mutransfer.training.run import train
    return train(made, TrainFolder(Path(name))).outcome

def lr_of_readout(**changes):
    from mutransfer.models import plan_of
    from mutransfer.parametrization.settings import settings
    made = config(**changes)
    return settings(plan_of(made), made.hparams).optimizer["readout.weight"].lr

def model():
    return trained(config(model={"kind": "toy", "width": 32, "base_width": 16}), "model")

def data_source():
    from mutransfer.data import load_data
    return [load_data(config().data).batch(0, batch_size=4, seed=0)[0].shape[1], trained(config(), "data")]

def executor():
    from mutransfer.executors.toy import JOBS
    from mutransfer.sweep.coordinator import run_sweep
    search = {"trials": 2, "confirm": {"top": 0}, "space": {"lr": {"choice": [1e-3, 2e-3]}}}
    run_sweep(config(search=search, executor={"kind": "toy"}), runs=Path("runs"), pack=1, arrange=False)
    return len(JOBS)

def optimizer():
    return trained(config(hparams={"optimizer": "toy"}), "optimizer")

def hparam():
    return lr_of_readout(hparams={"lr": 0.5, "toy_lr": 0.25})

def rule():
    return lr_of_readout(hparams={"lr": 0.5}, rules={"toy": 4})

def command():
    from typer.testing import CliRunner
    from mutransfer.cli import app
    return CliRunner().invoke(app, ["toy"]).stdout

def export():
    from mutransfer.transfer.export import export_config
    return export_config(config(hparams={"lr": 0.5}), "toy").text

def trainer():
    from mutransfer.training.trainers import TRAINERS
    return TRAINERS.load("toy").facts.name

found = {}
for check in (model, data_source, executor, optimizer, hparam, rule, command, export, trainer):
    try:
        found[check.__name__.replace("_", " ")] = check()
    except Exception:
        found[check.__name__.replace("_", " ")] = traceback.format_exc()
Path("found.json").write_text(json.dumps(found))
"""
EXPECTED = {
    "model": "completed", "data source": [2, "completed"], "executor": 2, "optimizer": "completed", "hparam": 0.125,
    "rule": 8.0, "command": "hello\n", "export": "lr=0.5", "trainer": "toy",
}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What every toy gives, in a copy of the package in which the page was followed."""
    home = tmp_path_factory.mktemp("copy")
    shutil.copytree(REPOSITORY / "mutransfer", home / "mutransfer", ignore=shutil.ignore_patterns("__pycache__"))
    for files in TOYS.values():
        for name, change in files.items():
            if isinstance(change, str):
                assert not (home / name).exists()
                (home / name).write_text(change, encoding="utf-8")
                continue
            text = (home / name).read_text(encoding="utf-8")
            anchor, added = change
            assert text.count(anchor) == 1, (name, anchor)
            (home / name).write_text(
                text.replace(anchor, added + anchor if anchor in BEFORE else anchor + added), encoding="utf-8"
            )
    environment = {**os.environ, "PYTHONPATH": str(home), "MUTRANSFER_CACHE": str(home / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads((home / "found.json").read_text(encoding="utf-8"))
    return answer


def test_there_is_a_toy_of_every_kind():
    assert set(KINDS) == set(TOYS) == set(EXPECTED)


@pytest.mark.parametrize("kind", KINDS)
def test_the_list_of_files_is_exact(kind):
    section = re.search(rf"^### Adding an? {kind}\n(.*?)(?=^##)", PAGE, flags=re.M | re.S)
    assert section is not None
    listed = re.findall(r"^- `([^`]+)`", section[1], flags=re.M)
    assert {name.replace("NAME", NEW) for name in listed} == set(TOYS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_toy_that_follows_the_list_works(kind, found):
    assert found[kind] == EXPECTED[kind], found[kind]
