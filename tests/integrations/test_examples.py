"""Every example of examples/ runs, by itself and under a sweep of `kind: command`, and is as short as it claims."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutransfer.config.load import load_config
from mutransfer.sweep.coordinator import run_sweep
from mutransfer.training.losses import read_metrics
from tests.conftest import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
# {example: packages that it needs}
NEEDS = {
    "plain_loop": (),
    "huggingface_trainer": ("transformers", "accelerate"),
    "lightning_trainer": ("lightning",),
    "accelerate_loop": ("accelerate",),
    "peft_lora": ("peft",),
    "torchtitan_hooks": ("torchtitan",),
}


def require(example: str) -> None:
    for package in NEEDS[example]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}, of the extra integrations")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    own = str(Path(__file__).parent / "environment")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([own, str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(REPOSITORY)


def test_every_example_is_listed_and_short():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(NEEDS)
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 40, path.name


@pytest.mark.skipif(os.name != "posix", reason="process groups")
@pytest.mark.parametrize("example", [name for name in NEEDS if name != "torchtitan_hooks"])
def test_a_sweep_drives_it(example, tmp_path):
    require(example)
    text = (EXAMPLES / "sweep.yaml").read_text(encoding="utf-8").replace("huggingface_trainer.py", f"{example}.py")
    if "given.out" not in (EXAMPLES / f"{example}.py").read_text(encoding="utf-8"):
        text = text.replace(', --out, "{trial_folder}"', "")
    path = tmp_path / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    config = load_config(path, ["search.trials=2", "search.confirm.top=0", "training.steps=20"])
    run_sweep(config, runs=tmp_path, pack=1, arrange=False)
    with (tmp_path / config.name / "trials.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["outcome"] for row in rows] == ["completed"] * 2
    assert all(0 < float(row["value"]) < 4.5 for row in rows)
    assert len({row["value"] for row in rows}) == 2
    folders = sorted((tmp_path / config.name / "trials").glob("*/"))
    assert [[*read_metrics(one / "metrics.jsonl")][-1]["step"] in (19, 20) for one in folders] == [True] * 2
    logged = {"huggingface_trainer": "change/lm_head", "lightning_trainer": "change/head"}.get(example, "")
    assert any(logged.encode() in file.read_bytes() for file in folders[0].rglob("*") if file.is_file())


TITAN = """
import json, torch, torchtitan_hooks
from torchtitan.config import JobConfig
from torchtitan.protocols.train_spec import get_train_spec

spec, job = get_train_spec("llama3_mup"), JobConfig()
job.optimizer.lr, job.training.seq_len, job.lr_scheduler.warmup_steps = 0.01, 16, 2
arguments = spec.model_args["own"]
arguments.update_from_config(job)
with torch.device("meta"):  # from here on as in torchtitan's trainer
    model = spec.model_cls(arguments)
model.to_empty(device="cpu")
with torch.no_grad():
    model.init_weights()
optimizers = spec.build_optimizers_fn([model], job.optimizer, None)
schedulers = spec.build_lr_schedulers_fn(optimizers, job.lr_scheduler, 20)
(optimizer,) = optimizers
peaks = [group["initial_lr"] for group in optimizer.param_groups]
losses = []
for step in range(20):
    tokens = (torch.randint(64, (16, 1)) + torch.randint(1, 5, (16, 1)) * torch.arange(17)) % 64
    loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    optimizers.zero_grad()
    loss.backward()
    optimizers.step()
    schedulers.step()
    losses.append(loss.item())
    if step == 10:
        ratios = [group["lr"] / optimizer.param_groups[0]["lr"] for group in optimizer.param_groups]
optimizers.load_state_dict(optimizers.state_dict())
model.load_state_dict(model.state_dict())
found = {"losses": losses, "peaks": peaks, "ratios": ratios}
print(json.dumps({**found, "multiplier": float(model.output.mup_input_multiplier)}))
"""


def test_the_hooks_of_torchtitan_make_its_llama_mup():
    require("torchtitan_hooks")
    environment = {**os.environ, "MUTRANSFER_WIDTH": "64", "MUTRANSFER_BASE_WIDTH": "32", "MUTRANSFER_SEED": "0"}
    environment["PYTHONPATH"] += os.pathsep + str(EXAMPLES)
    done = subprocess.run([sys.executable, "-c", TITAN], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["multiplier"] == 0.5
    assert found["peaks"][:2] == [0.01, 0.005]  # the embedding, hidden matrices
    assert found["ratios"] == pytest.approx([one / found["peaks"][0] for one in found["peaks"]])
    assert found["losses"][-1] < found["losses"][0] - 0.5
