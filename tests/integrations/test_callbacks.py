"""What the callbacks log is what the coordinate check measures."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

import mutransfer as mt
from mutransfer.errors import UsageError
from mutransfer.integrations import CoordinateProbe
from mutransfer.models.huggingface_config import transformers
from mutransfer.verification.activations import rms


def build(width: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(11, width), nn.Dropout(0.5), nn.Linear(width, width), nn.Linear(width, 7))


X = torch.arange(11)


def test_a_probe_measures_sizes_and_changes_and_leaves_the_model_as_it_is():
    model = build(8).train()
    before, probe, drawn = model(X * 0), CoordinateProbe(X), torch.get_rng_state()
    first = probe.look(torch.compile(model, backend="eager"))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert model.training
    assert before.shape == model(X * 0).shape
    outputs = model.eval()(X)
    assert first["size/3"] == pytest.approx(rms(outputs.detach()))
    assert {name: number for name, number in first.items() if name.startswith("change/")} == {
        "change/0": 0, "change/2": 0, "change/3": 0
    }  # fmt: skip
    with torch.no_grad():
        model[3].weight.mul_(2)
    second = probe.look(nn.DataParallel(model))
    assert second["change/3"] == pytest.approx(rms((model(X) - outputs).detach()))
    assert second["change/2"] == 0


@pytest.mark.parametrize("batch", [X, (X,), {"input": X}])
def test_a_batch_is_called_as_it_is_given(batch):
    assert "size/3" in CoordinateProbe(batch).look(build(8))


def test_names_choose_modules_and_mistakes_are_said():
    assert CoordinateProbe(X, modules=["3", "0"]).look(build(8)).keys() == {"size/0", "size/3", "change/0", "change/3"}
    with pytest.raises(UsageError, match=r"modules: 'head' matches no module"):
        CoordinateProbe(X, modules=["head"]).look(build(8))
    with pytest.raises(UsageError, match="every must be >= 1"):
        CoordinateProbe(X, every=0)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_hugging_faces_trainer_logs_before_the_first_and_after_every_nth_step(tmp_path):
    if importlib.util.find_spec("accelerate") is None:
        pytest.skip("needs accelerate, of the extra integrations")
    library = transformers()
    from mutransfer.integrations import HuggingFaceCoordinates

    class Model(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layers = build(width)

        def forward(self, x, labels=None):
            logits = self.layers(x)
            return (
                {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}
                if labels is not None
                else logits
            )

    plan, model = mt.plan_for(Model, width=16, base_width=8), Model(16)
    mt.initialize(model, plan)
    optimizer = torch.optim.AdamW(mt.parameter_groups(model, plan, lr=0.1))
    peaks = [group["lr"] for group in optimizer.param_groups]
    data = [{"x": one, "labels": one % 7} for one in X]
    arguments = library.TrainingArguments(str(tmp_path), max_steps=5, report_to=[], save_strategy="no", use_cpu=True,
                                          disable_tqdm=True, lr_scheduler_type="constant")  # fmt: skip
    trainer = library.Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None))
    probe = CoordinateProbe({"x": X}, modules=["layers.3"], every=2)
    trainer.add_callback(HuggingFaceCoordinates(trainer, probe))
    trainer.train()
    logged = [one for one in trainer.state.log_history if "size/layers.3" in one]
    assert [one["step"] for one in logged] == [0, 2, 4]
    assert [one["change/layers.3"] > 0 for one in logged] == [False, True, True]
    assert len(set(peaks)) > 1
    assert [group["lr"] for group in optimizer.param_groups] == peaks  # the trainer has not overwritten them
