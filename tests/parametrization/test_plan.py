"""The plan is plain data."""

from __future__ import annotations

import json

import pytest

from mutransfer.errors import UsageError
from mutransfer.models import plan_of
from mutransfer.parametrization.plan import make_plan
from tests.conftest import build


def test_is_json_and_fingerprinted(gpt):
    plan = plan_of(build(gpt, model__width=32))
    assert json.loads(json.dumps(plan.as_dict()))["parameters"]["readout.weight"]["forward"] == 0.5
    assert plan.fingerprint == plan_of(build(gpt, model__width=32)).fingerprint
    others = [
        build(gpt),
        build(gpt, model__width=32, parametrization="sp"),
        build(gpt, model__width=32, hparams__optimizer="sgd"),
        build(gpt, model__width=32, model__zero_query=False),
    ]
    assert len({plan.fingerprint, *(plan_of(other).fingerprint for other in others)}) == 5


def test_hparams_do_not_change_the_plan(gpt):
    changed = build(gpt, hparams={"lr": 0.5, "init_scale": 3.0, "temperature": 2.0})
    assert plan_of(changed).fingerprint == plan_of(build(gpt)).fingerprint


def test_biases_and_gains_do_not_decay(gpt):
    plan = plan_of(build(gpt, model__width=32, model__norm_gain=True))
    decays = {name: scaling.weight_decay for name, scaling in plan.parameters.items()}
    assert decays["norm.weight"] == 0
    assert decays["blocks.0.up.weight"] == 2  # λ·m_in
    assert decays["embedding.weight"] == 1


def test_unknown_optimizer():
    with pytest.raises(UsageError, match="optimizer lyon: there is no such optimizer; did you mean lion"):
        make_plan([], width=8, base_width=8, optimizer="lyon")
