"""Layers under weight norm and spectral norm: the gain is kept, and every place that has a rule passes the check."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import mutransfer as mt
from mutransfer.errors import PlanError
from mutransfer.parametrization import plan as plans
from mutransfer.parametrization import rules
from mutransfer.verification import coordinate_check

NORMS = {
    "weight norm": parametrizations.weight_norm,
    "older weight norm": nn.utils.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
}
PLACES = [(norm, place) for norm in NORMS for place in ("input", "hidden", "readout")]
PLACES.remove(("spectral norm", "input"))
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm` is deprecated:FutureWarning")


def net(width, norm, place):
    layers = {"input": nn.Linear(64, width), "hidden": nn.Linear(width, width), "readout": nn.Linear(width, 10)}
    layers[place] = NORMS[norm](layers[place])
    return nn.Sequential(layers["input"], nn.ReLU(), layers["hidden"], nn.ReLU(), layers["readout"])


def check(norm, place, optimizer="adamw"):
    draw = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(32, 64, generator=draw), torch.randint(0, 10, (32,), generator=draw)
    return coordinate_check(
        partial(net, norm=norm, place=place), inputs=inputs, targets=targets, base_width=32, seeds=2, control=False,
        widths=[32, 64, 128, 256], optimizer=optimizer, lr=0.1 if optimizer == "sgd" else 2e-3,
    )  # fmt: skip


@pytest.mark.parametrize(("norm", "place"), PLACES)
def test_a_normed_layer_passes_the_check(norm, place):
    found = check(norm, place)
    assert found.outcome == "passed", found.sentence
    assert [one.module for one in found.modules] == ["0", "1", "2", "3", "4"]  # what computes a weight is no activation


@pytest.mark.parametrize("norm", ["weight norm", "spectral norm"])
def test_a_normed_readout_fails_with_the_rule_of_a_plain_one(norm, monkeypatch):
    monkeypatch.setattr(rules, "NORMED_OUTPUT", rules.MUP["output"])
    assert plans.rules.NORMED_OUTPUT is rules.MUP["output"]
    found = check(norm, "readout")
    assert (found.outcome, found.culprit) == ("failed", "4")


@pytest.mark.parametrize("norm", ["weight norm", "older weight norm"])
def test_the_gain_is_kept_and_does_not_decay(norm):
    model = net(64, norm, "hidden")
    name = "2.parametrizations.weight.original0" if norm == "weight norm" else "2.weight_g"
    before = model.get_parameter(name).detach().clone()
    plan = mt.plan_for(partial(net, norm=norm, place="hidden"), width=64, base_width=32)
    mt.initialize(model, plan)
    assert torch.equal(model.get_parameter(name), before)
    assert (plan.parameters[name].role, plan.parameters[name].weight_decay) == ("vector", 0)
    of_readout = mt.plan_for(partial(net, norm=norm, place="readout"), width=64, base_width=32)
    assert of_readout.parameters[name.replace("2.", "4.", 1)].weight_decay == 0


def test_spectral_norms_are_estimated_again_after_the_weights_are_drawn():
    model = net(64, "spectral norm", "hidden")
    mt.initialize(model, mt.plan_for(partial(net, norm="spectral norm", place="hidden"), width=64, base_width=32))
    assert float(torch.linalg.matrix_norm(model.eval()[2].weight.detach(), 2)) == pytest.approx(1, abs=0.05)


def test_what_has_no_rule_is_refused_by_name():
    with pytest.raises(PlanError, match=r"0\.parametrizations.weight.original: a spectral norm.*use weight_norm"):
        mt.plan_for(partial(net, norm="spectral norm", place="input"), width=64, base_width=32)
    with pytest.raises(PlanError, match=r"2: torch.nn.utils.spectral_norm has no rule here; use torch"):
        mt.plan_for(lambda width: nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.utils.spectral_norm(
            nn.Linear(width, width))), width=64, base_width=32)  # fmt: skip
