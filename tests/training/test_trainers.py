"""Both built-in trainers, held to the contract; and what a run makes of a trainer's abilities."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import ClassVar

import pytest
from torch import nn

from mutransfer.config.models import MLPSection
from mutransfer.config.trainer import IN_PROCESS
from mutransfer.errors import UsageError
from mutransfer.testing.trainers import TrainerCase, TrainerContract
from mutransfer.training.folder import TrainFolder, TrainResult
from mutransfer.training.run import train
from mutransfer.training.trainers import TRAINERS, trainer_of
from mutransfer.training.trainers.in_process import InProcessTrainer
from tests.conftest import TEXT, build

# Losses as the arguments say, one a line; with --slow it waits after the first, unless it is continued.
PROGRAM = """\
import os, sys, time
width, lr, seed, steps, *rest = sys.argv[1:]
first = 1
if "--slow" in rest and os.environ["MUTRANSFER_RESUME"] == "true":
    first, rest = 2, []
for step in range(first, int(steps) + 1):
    loss = "NaN" if "--diverge" in rest and step > 1 else 1 / step + float(lr) / int(width)
    print('{"step": %d, "val_loss": %s}' % (step, loss), flush=True)
    time.sleep(60 if "--slow" in rest else 0)
if "--fail" in rest:
    raise SystemExit("the disk is full")
"""


class Broken(nn.Module):
    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.embedding, self.readout = nn.Embedding(vocab_size, width), nn.Linear(width, vocab_size)

    def forward(self, ids):
        raise ZeroDivisionError("on purpose")


class TestInProcess(TrainerContract):
    @pytest.fixture
    def case(self, tmp_path):
        (tmp_path / "corpus.txt").write_text(TEXT, encoding="utf-8")
        config = {
            "name": "tiny",
            "model": {"kind": "gpt", "width": 16, "base_width": 16, "depth": 1, "head_dim": 8},
            "data": {"kind": "text", "paths": [str(tmp_path / "corpus.txt")], "seq_len": 16},
            "training": {"steps": 8, "batch_size": 4, "eval_batches": 2, "log_every": 1},
            "hparams": {"lr": 0.01, "schedule": "constant", "warmup": 0.0},
        }
        broken = {"kind": "module", "factory": f"{__name__}:Broken"}
        return TrainerCase(
            config=config,
            diverging={**config, "hparams": {**config["hparams"], "lr": 1e9}},
            lasting={**config, "training": {**config["training"], "steps": 400}},
            impossible={**config, "data": {"kind": "text", "paths": [str(tmp_path / "missing.txt")]}},
            failing={**config, "model": {**broken, "width": 16, "base_width": 16}},
        )


@pytest.mark.skipif(os.name != "posix", reason="process groups")
class TestCommand(TrainerContract):
    @pytest.fixture
    def case(self):
        def config(*flags, program="{python}"):
            arguments = ["-S", "-c", PROGRAM.replace("{", "{{").replace("}", "}}")]
            settings = ["{width}", "{lr}", "{seed}", "{steps}", *flags]
            return {
                "name": "own",
                "model": {
                    "kind": "command", "width": 16, "base_width": 16, "loss_from": {"json_lines": "stdout"},
                    "command": [program, *arguments, *settings],
                },
                "training": {"steps": 2},
                "hparams": {"lr": 0.01},
            }  # fmt: skip

        return TrainerCase(
            config=config(),
            diverging=config("--diverge"),
            lasting=config("--slow"),
            impossible=config(program="nosuchprogram"),
            failing=config("--fail"),
        )


class Recording(InProcessTrainer):
    """A trainer that can do something else than the one in process, and notes how it is called."""

    facts = replace(IN_PROCESS, name="recording", several_devices=True, resumes=False)
    devices: ClassVar[list[str | None]] = []

    def require_run(self, config, folder, *, device):
        self.devices.append(device)

    def train(self, config, folder, *, device, watch):
        self.devices.append(device)
        folder.root.mkdir(exist_ok=True)
        folder.metrics.write_text("")
        return TrainResult("interrupted", steps=1)


def test_a_run_keeps_to_what_the_trainer_says_it_can(tmp_path, monkeypatch):
    monkeypatch.setitem(TRAINERS.built_in, "recording", f"{__name__}:Recording")
    monkeypatch.setattr(MLPSection, "trainer", Recording.facts)
    config = build({"name": "x", "model": {"kind": "mlp", "width": 8, "base_width": 8}, "data": {"kind": "digits"}})
    assert isinstance(trainer_of(config), Recording)
    folder = TrainFolder(tmp_path / "run")
    assert train(config, folder, device="cuda:1").outcome == "interrupted"
    assert Recording.devices == [None, None]
    with pytest.raises(UsageError, match="the trainer recording cannot continue one; remove the folder"):
        train(config, folder, resume=True)


def test_a_trainer_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(MLPSection, "trainer", replace(IN_PROCESS, name="in-proces"))
    config = build({"name": "x", "model": {"kind": "mlp", "width": 8, "base_width": 8}, "data": {"kind": "digits"}})
    with pytest.raises(UsageError, match="there is no such trainer; did you mean in-process"):
        trainer_of(config)
