"""The `mup` package's example Transformer, as a user's own module, against the package itself."""

from __future__ import annotations

import math

import mup
import pytest
import torch
from torch import nn

from mutransfer.models import build_model, plan_of
from mutransfer.parametrization.apply import MULTIPLIERS, initialize, set_multipliers
from mutransfer.training.optimizers import build_optimizer
from tests.conftest import build
from tests.parametrization import example_transformer, oracle

BASE = 16
HEADS = 2
ATTN_MULT = math.sqrt(BASE / HEADS)  # the package's 1/d with this factor is 1/√d at base width


@pytest.fixture
def ours(gpt):
    """Makes the config of the example at a width multiplier."""

    def made(m, parametrization="mup", **fields):
        model = {
            "kind": "module", "factory": "tests.parametrization.example_transformer:build", "width": m * BASE,
            "base_width": BASE, "zero_readout": False, "heads": HEADS, "attn_mult": ATTN_MULT, **fields,
        }  # fmt: skip
        hparams = {"lr": 0.02, "eps": oracle.NO_EPS, "weight_decay": 0.125, "schedule": "constant", "warmup": 0.0}
        return build(gpt, model=model, hparams=hparams, parametrization=parametrization, search=None)

    return made


def twin(m):
    """The example by the package's own means."""

    def made(width):
        model = example_transformer.build(width, 256, heads=HEADS, attn_mult=ATTN_MULT).double()
        model.decoder = mup.MuReadout(width, 256).double()
        return model

    return mup.set_base_shapes(made(m * BASE), made(BASE), delta=made(2 * BASE))


@pytest.mark.parametrize("m", [1, 2, 4, 8])
def test_lr_of_every_parameter_is_muadamws(ours, m):
    config = ours(m)
    model = build_model(config.model, config.data.spec)
    own = oracle.settings(model, build_optimizer(model, plan_of(config), config.hparams))
    other = twin(m)
    theirs = oracle.settings(other, oracle.mup_optimizer(other, config.hparams, plain=True))
    assert len(own) == 2 * 14 + 3 == len(theirs)
    assert {name: lr for name, (lr, _) in own.items()} == pytest.approx({name: lr for name, (lr, _) in theirs.items()})
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim == 2}
    assert {name: own[name][1] for name in matrices} == pytest.approx({name: theirs[name][1] for name in matrices})
    # On purpose (docs/differences.md): biases and gains decay in the package.
    assert {own[name][1] for name in own.keys() - matrices} == {0.0}
    assert {theirs[name][1] for name in own.keys() - matrices} == {0.125}


@pytest.mark.parametrize("m", [1, 2, 4, 8])
def test_init_of_every_parameter_is_mup_inits(ours, m):
    plan, other = plan_of(ours(m)), twin(m)
    for name, parameter in other.named_parameters():
        planned = plan.parameters[name].init_std
        if parameter.ndim == 2:
            draw = mup.init.normal_ if name == "encoder.weight" else oracle.linear_kaiming
            assert planned == pytest.approx(oracle.drawn_std(parameter, draw, nn.init.normal_), rel=1e-9), name
        else:  # as the module made them, or zero: both the same at every width
            assert planned in (None, 0.0), name


@pytest.mark.parametrize("m", [1, 4])
def test_logits_and_first_losses_are_the_packages(ours, m):
    config = ours(m)
    plan, model, other = plan_of(config), build_model(config.model, config.data.spec).double(), twin(m)
    initialize(model, plan, seed=1)
    model.double()  # buffers too
    set_multipliers(model, plan)
    other.load_state_dict({k: v for k, v in model.state_dict().items() if k.rpartition(".")[2] not in MULTIPLIERS})
    tokens = torch.randint(0, 256, (4, 17), generator=torch.Generator().manual_seed(0))
    own = model(tokens)
    assert own.std() > 1e-3
    torch.testing.assert_close(own, other(tokens), rtol=1e-10, atol=1e-10)
    batches = [(tokens[:, :-1], tokens[:, 1:])] * 5
    hparams = config.hparams.with_values({"weight_decay": 0.0})
    theirs = oracle.train(other, oracle.mup_optimizer(other, hparams), batches)
    assert theirs[-1] < theirs[0] - 0.01
    assert oracle.train(model, build_optimizer(model, plan, hparams), batches) == pytest.approx(theirs, rel=1e-8)


def test_sp_is_noticed(ours):
    config = ours(4, "sp")
    model = build_model(config.model, config.data.spec)
    own = oracle.settings(model, build_optimizer(model, plan_of(config), config.hparams))
    other = twin(4)
    theirs = oracle.settings(other, oracle.mup_optimizer(other, config.hparams, plain=True))
    assert {name: lr for name, (lr, _) in own.items()} != pytest.approx({name: lr for name, (lr, _) in theirs.items()})


def test_a_fused_matrix_of_an_unknown_layer_is_named(ours):
    warnings = plan_of(ours(2)).warnings
    assert sum("in_proj_weight: a weight outside any known layer is taken as (out, in)" in one for one in warnings) == 2
