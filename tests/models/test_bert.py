"""What a BERT sees, and the lr of its norm gains and biases."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mutransfer.data import load_data
from mutransfer.models import plan_of
from mutransfer.parametrization.settings import settings
from mutransfer.training.learner import Learner
from tests.conftest import build

CPU = torch.device("cpu")


@pytest.fixture
def bert(gpt: dict[str, Any]) -> dict[str, Any]:
    """A bert at its base width, with everything that can be turned on."""
    model = {"kind": "bert", "width": 16, "base_width": 16, "depth": 1, "head_dim": 8, "bias": True, "norm_gain": True}
    return {**gpt, "name": "tiny-bert", "model": model, "data": {**gpt["data"], "mask": 0.25}}


def test_every_position_sees_every_other(bert: dict[str, Any]) -> None:
    config = build(bert, model__zero_readout=False, model__zero_query=False)
    model = Learner(config, CPU).model
    tokens = torch.arange(16)[None]
    before = model(tokens)
    for place in (0, 7, 15):
        changed = tokens.clone()
        changed[0, place] = 99
        assert (before - model(changed)).abs().amax(-1).min() > 1e-4
    turned = model(tokens.flip(1)).flip(1)
    assert (before - turned).abs().amax(-1).min() > 1e-4  # order counts


def test_the_loss_is_over_what_is_to_be_guessed(bert: dict[str, Any]) -> None:
    config = build(bert, model__zero_readout=False)
    learner, data = Learner(config, CPU), load_data(config.data)
    inputs, targets = data.batch(0, batch_size=4, seed=0)
    with torch.no_grad():
        logits = learner.model(torch.from_numpy(inputs)).log_softmax(-1)
    chosen = torch.from_numpy(targets) != -100
    expected = -logits[chosen].gather(1, torch.from_numpy(targets)[chosen][:, None]).mean()
    assert learner.evaluate([(inputs, targets)]) == pytest.approx(float(expected), rel=1e-5)


def test_gains_and_biases_have_an_lr_of_their_own_and_nothing_else_does(bert: dict[str, Any]) -> None:
    config = build(bert, model__width=64)
    plan = plan_of(config)
    plain = settings(plan, config.hparams).optimizer
    changed = settings(plan, config.hparams.with_values({"norm_gain_lr": 3.0, "bias_lr": 5.0})).optimizer
    ratio = {name: changed[name].lr / plain[name].lr for name in plain}
    gains = {name for name in ratio if name.endswith("norm.weight")}
    biases = {name for name in ratio if name.endswith(".bias")}
    assert len(gains) == 3
    assert {"readout.bias", "norm.bias", "blocks.0.up.bias"} <= biases
    for name, found in ratio.items():
        assert found == pytest.approx(3.0 if name in gains else 5.0 if name in biases else 1.0), name


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_these_lrs_reach_the_optimizer(bert: dict[str, Any], optimizer: str) -> None:
    hparams = {"optimizer": optimizer, "lr": 0.01, "norm_gain_lr": 3.0, "bias_lr": 5.0}
    learner = Learner(build(bert, hparams=hparams), CPU)
    found = {name: group["peak_lr"] for group in learner.optimizer.param_groups for name in group["names"]}
    base = found["embedding.weight"]  # at base width every other lr of Adam and SGD is this one
    assert found["norm.weight"] == pytest.approx(3 * base)
    assert found["blocks.0.attention.key.bias"] == pytest.approx(5 * base)
    assert found["readout.weight"] == pytest.approx(base)


def test_they_are_refused_where_there_is_nothing_to_multiply(bert: dict[str, Any], gpt: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no trainable norm gains"):
        build(bert, model__norm_gain=False, hparams__norm_gain_lr=2.0)
    with pytest.raises(ValueError, match="no biases"):
        build(gpt, hparams__bias_lr=2.0)
