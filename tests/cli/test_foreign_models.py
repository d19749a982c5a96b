"""A model of foreign code on the command line: what it does wrong is one message, and nothing has been started."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Refused, invoke

CODE = """\
from torch import nn

def build(width, vocab_size, depth=1):
    hidden = (nn.Linear(width, width) for _ in range(depth))
    return nn.Sequential(nn.Embedding(vocab_size, width), *hidden, nn.Linear(width, vocab_size))

def broken(width):
    return nn.Linear(width, 1 / 0)
"""
CONFIG = """\
name: own
model: {kind: module, factory: "FILE:build", width: 32, base_width: 32, depth: 1}
data: {kind: text, paths: [corpus.txt], seq_len: 16}
training: {steps: 6, batch_size: 2, eval_batches: 1}
search: {trials: 2, confirm: {top: 0}, space: {lr: {log_uniform: [1e-3, 1e-1]}}}
"""
VERBS = [("train", "own.yaml"), ("sweep", "own.yaml"), ("coord-check", "own.yaml"), ("audit", "own.yaml"),
         ("transfer-check", "own.yaml")]  # fmt: skip


def written(workspace: Path, request: pytest.FixtureRequest, code: str, config: str) -> str:
    """Writes `own.yaml` and its file of code, of a name that no other test has imported; the name."""
    name = re.sub(r"\W", "_", f"own_{request.node.name}")
    (workspace / f"{name}.py").write_text(code, encoding="utf-8")
    (workspace / "own.yaml").write_text(config.replace("FILE", name), encoding="utf-8")
    return name


@pytest.fixture
def own(workspace: Path, request: pytest.FixtureRequest) -> str:
    """A model on text; the name of its file."""
    return written(workspace, request, CODE, CONFIG)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_code_that_raises_is_one_message_before_anything_starts(
    own: str, refused: Refused, verb: tuple[str, ...]
) -> None:
    message = refused(*verb, "--set", f"model.factory={own}:broken", "--set", "model.depth=1")
    assert message == f"model.depth: is not a field of this section or a parameter of {own}:broken; did you mean width?"
    text = Path("own.yaml").read_text(encoding="utf-8").replace(", depth: 1", "").replace(":build", ":broken")
    Path("own.yaml").write_text(text, encoding="utf-8")
    message = refused(*verb)
    assert message.startswith(f"model.factory: {own}:broken raised ZeroDivisionError: division by zero (")
    assert message.endswith(f"{own}.py:8)")


def test_the_traceback_is_shown_on_request(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUTRANSFER_DEBUG", "1")
    with pytest.raises(AssertionError, match="Traceback"):  # `invoke` lets none pass
        invoke("audit", "own.yaml", "--set", f"model.factory={own}:bild")


def test_it_trains_and_transfers(own: str) -> None:
    code, _, err = invoke("train", "own.yaml", "--json")
    assert code == 0, err
    assert not Path("runs/own/train/pretrained").exists()
    code, out, err = invoke("sweep", "own.yaml", "--workers", "1", "--pack", "1", "--json")
    assert code == 0, err
    assert json.loads(out)["outcomes"] == {"completed": 2}
    code, out, err = invoke("transfer", "--width", "128", "--run", "own", "--depth", "2", "--json")
    assert code == 0, err
    assert {line.split(":")[0] for line in json.loads(out)["changed"]} == {"model.width", "model.depth"}


def test_multipliers_of_lr_count_where_the_model_has_what_they_multiply(own: str, refused: Refused) -> None:
    """A config cannot tell: GPT-2 has biases, Llama has none, and a module is its author's affair."""
    message = refused("train", "own.yaml", "--set", "hparams.norm_gain_lr=2")
    assert message == "hparams.norm_gain_lr: has no effect: the model has no trainable norm gains"
    assert invoke("train", "own.yaml", "--out", "biased", "--set", "hparams.bias_lr=2")[0] == 0
    pytest.importorskip("safetensors")  # of the extra hf; transformers itself is imported with care (torchvision)
    sizes = {
        "gpt2": {"n_embd": 16, "n_head": 2, "n_layer": 1},
        "llama": {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1},
    }
    text = Path("own.yaml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("model:"))
    for family, given in sizes.items():
        Path(f"{family}.json").write_text(json.dumps({"model_type": family, **given}), encoding="utf-8")
        section = f"model: {{kind: huggingface, config: {family}.json, width: 32, base_width: 16}}"
        Path(f"{family}.yaml").write_text(text.replace(line, section), encoding="utf-8")
    assert invoke("train", "gpt2.yaml", "--out", "gpt2", "--set", "hparams.bias_lr=2")[0] == 0
    message = refused("train", "llama.yaml", "--set", "hparams.bias_lr=2")
    assert message == "hparams.bias_lr: has no effect: the model has no biases"


def test_a_model_of_transformers_leaves_a_checkpoint_for_it(own: str) -> None:
    pytest.importorskip("safetensors")
    config = {"model_type": "gpt2", "n_embd": 16, "n_head": 2, "n_layer": 1}
    Path("gpt2.json").write_text(json.dumps(config), encoding="utf-8")
    text = Path("own.yaml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("model:"))
    section = "model: {kind: huggingface, config: gpt2.json, width: 32, base_width: 16}"
    Path("own.yaml").write_text(text.replace(line, section), encoding="utf-8")
    code, out, err = invoke("train", "own.yaml")
    assert code == 0, err
    assert "For transformers: runs/own/train/pretrained" in out
    assert {path.name for path in Path("runs/own/train/pretrained").iterdir()} >= {"config.json", "model.safetensors"}


ARRAYS = """\
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

def load(length=0, what=""):
    x = np.random.default_rng(0).normal(size=(60, 6)).astype("float32")
    y = (x[:, 0] > 0).astype("int64")
    if what == "nan":
        x[40, 3] = np.nan
    if what == "labels":
        y[20] = 7
    if what == "constant":
        y[:] = 1
    if what == "numbers":
        y = x[:, 0] * 2
    if length:
        x = np.random.default_rng(0).integers(0, 5, (60, length))
        y = (x + 1) % 5
    return x, y

class Net(nn.Module):
    def __init__(self, width, which):
        super().__init__()
        self.which, self.a, self.b = which, nn.Linear(6, width), nn.Linear(width, width)
        self.table, self.head = nn.Embedding(5, width, sparse=which == "sparse"), nn.Linear(width, 2)
        self.one, self.five = nn.Linear(width, 1), nn.Linear(width, 5)

    def forward(self, x):
        if self.which == "classes first":
            return self.five(F.relu(self.b(self.table(x)))).mT
        if self.which == "sparse":
            return self.head(self.table((x[:, 0] > 0).long()))
        hidden = torch.sigmoid(self.a(x))
        other = self.b(hidden)
        if self.which == "in place":
            hidden += 1
        return (self.one if self.which == "one output" else self.head)(hidden + other)

def build(width, which="fine"):
    return Net(width, which)
"""
ARRAY_CONFIG = """\
name: own
model: {kind: module, factory: "FILE:build", width: 32, base_width: 32}
data: {kind: module, factory: "FILE:load"}
training: {steps: 6, batch_size: 4, eval_batches: 1}
search: {trials: 2, confirm: {top: 0}, space: {lr: {log_uniform: [1e-3, 1e-1]}}}
"""


@pytest.fixture
def arrays(workspace: Path, request: pytest.FixtureRequest) -> str:
    """A model on arrays; the name of its file."""
    return written(workspace, request, ARRAYS, ARRAY_CONFIG)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("model.which=one output", "model.loss=mse", "data.what=numbers"),
         r"gives outputs of shape \(2, 1\), and the targets have shape \(2,\), so that they would be broadcast"),
        (("model.which=classes first", "data.length=5"), r"outputs of shape \(2, 5, 5\) do not fit.*transpose"),
        (("model.which=classes first", "data.length=4"), r"outputs of shape \(2, 5, 4\) do not fit.*transpose"),
        (("model.which=sparse",), "one step of training raised .*sparse"),
        (("model.which=in place",), "one step of training raised RuntimeError: .*inplace operation"),
        (("data.what=nan",), r"row 40, position 3 is nan; training needs finite numbers, and 1 values are not"),
        (("data.what=labels",), r"the target in row 20 is 7, but .* gives 2 classes, 0 to 1"),
        (("data.what=constant",), "all 60 targets are 1, so there is nothing to learn"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_said_before_anything_starts(
    arrays: str, refused: Refused, changes: tuple[str, ...], message: str
) -> None:
    sets = [word for change in changes for word in ("--set", change)]
    assert re.search(message, refused("sweep", "own.yaml", *sets)), message


def test_a_sweep_is_not_continued_with_other_code(arrays: str, refused: Refused) -> None:
    first = invoke("sweep", "own.yaml", "--workers", "1", "--pack", "1", "--no-check", "--set", "search.threads=1")
    assert first[0] == 0
    file = Path(f"{arrays}.py")
    file.write_text(ARRAYS + "# a comment changes nothing\n", encoding="utf-8")
    Path("stranger.py").write_text("x = 1\n", encoding="utf-8")
    importlib.import_module("stranger")  # in the same folder, and not imported by the model
    more = ("sweep", "own.yaml", "--workers", "1", "--pack", "1", "--no-check", "--set", "search.threads=1", "--set",
            "search.trials=3")  # fmt: skip
    assert invoke(*more)[0] == 0
    file.write_text(ARRAYS.replace("torch.sigmoid", "torch.relu"), encoding="utf-8")
    assert "has changed since this sweep began" in refused(*more)
