"""Where we and microsoft's `mup` package differ: each row of the table in docs/differences.md, pinned.

If one of these fails after an upgrade of the package, the document is what has to change.
"""

from __future__ import annotations

import copy
import re
import sys

import mup
import pytest
import torch
from torch import nn

from mutransfer.errors import PlanError
from mutransfer.parametrization.apply import initialize, parameter_groups, set_multipliers
from mutransfer.parametrization.roles import plan_for
from mutransfer.training.optimizers import build_optimizer
from tests.conftest import REPOSITORY
from tests.parametrization import oracle, test_oracle

TARGET, BASE, DELTA = 32, 8, 16


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def based(factory):
    """The model at the target width with the package's base shapes."""
    return mup.set_base_shapes(factory(TARGET), factory(BASE), delta=factory(DELTA))


def planned(factory, **arguments):
    return plan_for(factory, width=TARGET, base_width=BASE, **arguments)


def two_layers(layer, head=nn.Linear):
    """A factory of `layer(width)` between a first layer and a readout."""
    return lambda width: nn.ModuleDict({"first": nn.Linear(3, width), "layer": layer(width), "head": head(width, 10)})


# --- the optimizer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_epsilon_is_scaled_by_us_only(optimizer):
    given = oracle.hparams(optimizer, eps=1e-3)
    oracle.assert_same_losses(oracle.pair(oracle.gpt(1), given))
    both = oracle.pair(oracle.gpt(4), given)
    theirs = oracle.mup_optimizer(both.twin, given)
    assert {group["eps"] for group in theirs.param_groups} == {1e-3}
    own, other = both.losses()
    assert own[0] == pytest.approx(other[0], rel=1e-10)
    assert own[-1] != pytest.approx(other[-1], rel=0.1)
    own, other = oracle.pair(oracle.gpt(4), oracle.hparams(optimizer, eps=1e-8)).losses()
    assert own[-1] == pytest.approx(other[-1], rel=1e-5)
    assert own[-1] != pytest.approx(other[-1], rel=1e-9)

    # with our ε in the package's groups nothing differs any more: ε is the whole difference
    both = oracle.pair(oracle.gpt(4), given)
    eps = {name: 1e-3 * both.plan.parameters[name].eps for name, _ in both.twin.named_parameters()}
    names = {id(parameter): name for name, parameter in both.twin.named_parameters()}
    adam = torch.optim.AdamW if optimizer == "adamw" else torch.optim.Adam
    groups = [
        {**{key: group[key] for key in ("lr", "weight_decay", "betas")}, "params": [one], "eps": eps[names[id(one)]]}
        for group in oracle.mup_optimizer(both.twin, given).param_groups
        for one in group["params"]
    ]
    own = oracle.train(both.ours, build_optimizer(both.ours, both.plan, given), [both.batch()] * 5)
    assert own == pytest.approx(oracle.train(both.twin, adam(groups), [both.batch()] * 5), rel=1e-8)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_biases_and_gains_decay_in_the_package_only(optimizer):
    both = oracle.pair(oracle.mlp(4), oracle.hparams(optimizer))
    own = oracle.settings(both.ours, build_optimizer(both.ours, both.plan, both.hparams))
    theirs = oracle.settings(both.twin, oracle.mup_optimizer(both.twin, both.hparams, plain=True))
    differing = {name for name in own if own[name] != pytest.approx(theirs[name], rel=1e-12)}
    assert differing == {"layers.0.bias", "layers.1.bias", "layers.2.bias", "readout.bias"}
    assert {own[name][1] for name in differing} == {0.0}
    in_layers, of_readout = (0.125, 0.125) if optimizer == "adamw" else (0.125 / 4, 0.125)
    assert theirs["layers.1.bias"][1] == in_layers
    assert theirs["readout.bias"][1] == of_readout
    gains = oracle.pair(oracle.gpt(4), oracle.hparams("adamw"))
    plain = oracle.mup_optimizer(gains.twin, gains.hparams, plain=True)
    assert oracle.settings(gains.twin, plain)["norm.weight"][1] == 0.125
    assert gains.plan.parameters["norm.weight"].weight_decay == 0.0


def test_a_depthwise_kernel_is_a_gain_to_us_and_so_does_not_decay():
    factory = two_layers(lambda width: nn.Conv1d(width, width, 3, groups=width), mup.MuReadout)
    theirs = based(factory)
    settings = oracle.settings(theirs, mup.MuSGD(theirs.parameters(), lr=1.0, weight_decay=0.5))
    plan = planned(factory, optimizer="sgd")
    assert settings["layer.weight"] == (4.0, 0.125)
    assert (plan.parameters["layer.weight"].lr, plan.parameters["layer.weight"].weight_decay) == (4.0, 0.0)


def test_coupled_decay_of_adam_is_refused_by_us_and_multiplied_by_the_package():
    both = oracle.pair(oracle.gpt(4), oracle.hparams("adam"))
    with pytest.raises(PlanError, match="coupled L2 has no width-independent rule"):
        parameter_groups(both.ours, both.plan, lr=0.02, weight_decay=0.125)
    theirs = mup.MuAdam(both.twin.parameters(), lr=0.02, weight_decay=0.125)
    assert isinstance(theirs, torch.optim.Adam)
    assert not isinstance(theirs, torch.optim.AdamW)
    assert oracle.settings(both.twin, theirs)["blocks.0.up.weight"] == (0.02 / 4, 0.125 * 4)


def test_coupled_decay_shrinks_wider_weights_faster_in_the_package():
    """While the gradient dominates, Adam with L2 shrinks a weight by lr·λ/RMS(gradient) a step: m times as fast."""

    def shrinking(m):
        both = oracle.pair(oracle.mlp(m), oracle.hparams("adam"))
        theirs = mup.MuAdam(both.twin.parameters(), lr=0.02, weight_decay=0.125)
        lr, decay = oracle.settings(both.twin, theirs)["layers.1.weight"]
        oracle.train(both.twin, torch.optim.SGD(both.twin.parameters(), lr=0.0), [both.batch()])
        coupled = lr * decay / both.twin.layers[1].weight.grad.square().mean().sqrt().item()
        return coupled, lr * decay

    (coupled, decoupled), (wide_coupled, wide_decoupled) = shrinking(1), shrinking(16)
    assert wide_decoupled == pytest.approx(decoupled)  # as AdamW's decay does, ours and the package's
    assert 8 < wide_coupled / coupled < 32


# --- the forward pass -------------------------------------------------------------------------------------------


def test_output_mult_leaves_a_bias_alone_and_our_temperature_divides_it():
    both = oracle.pair(oracle.mlp(4), oracle.hparams("adamw", temperature=2.0))
    own, theirs = both.logits()
    assert both.twin.readout.output_mult == 0.5
    torch.testing.assert_close(theirs - own, both.ours.readout.bias.detach().expand_as(own) / 2)
    oracle.assert_same_logits(oracle.pair(oracle.mlp(4), oracle.hparams("adamw")))


def test_attention_scale_is_left_to_users_by_the_package():
    model = based(lambda width: nn.Sequential(nn.Linear(3, width), nn.MultiheadAttention(width, 2)))
    assert model[1].head_dim == TARGET // 2  # accepted, although torch divides by √head_dim inside
    with pytest.raises(PlanError, match="1/√head_dim inside"):
        planned(lambda width: nn.Sequential(nn.Linear(3, width), nn.MultiheadAttention(width, 2)))


# --- initial weights --------------------------------------------------------------------------------------------


def test_initial_weights_when_nothing_is_said():
    """The package keeps torch's defaults, uniform with std 1/√(3·fan_in) at base; we draw normal 1/√fan_in."""
    section = oracle.mlp(8, zero_readout=True)
    theirs = oracle.twin(section)
    plan = oracle.our_plan(section, oracle.CLASSES, "adamw")
    ours = oracle.build_model(section, oracle.CLASSES)
    initialize(ours, plan)
    hidden = theirs.layers[1].weight
    assert hidden.abs().max() <= hidden.shape[1] ** -0.5
    assert hidden.std().item() == pytest.approx((3 * hidden.shape[1]) ** -0.5, rel=0.05)
    assert ours.layers[1].weight.std().item() == pytest.approx(hidden.shape[1] ** -0.5, rel=0.05)
    # biases: random in the package, of the same size at every width; zero here
    assert theirs.layers[1].bias.std().item() == pytest.approx((3 * oracle.BASE_WIDTH) ** -0.5, rel=0.2)
    assert not ours.layers[1].bias.any()
    # the readout: random unless readout_zero_init; zero here unless zero_readout is off
    assert theirs.readout.weight.std().item() == pytest.approx((3 * oracle.BASE_WIDTH) ** -0.5, rel=0.1)
    assert theirs.readout.bias.any()
    assert not ours.readout.weight.any()


@pytest.mark.parametrize("m", [1, 4])
def test_tied_embedding_when_nothing_is_said(m):
    """`set_base_shapes` multiplies a shared readout by √m, which embeddings of std 1 do not need."""
    section = oracle.gpt(m, tied_embeddings=True)
    assert oracle.twin(section).embedding.weight.std().item() == pytest.approx(m**0.5, rel=0.1)
    plan = oracle.our_plan(section, oracle.TOKENS, "adamw")
    assert plan.parameters["embedding.weight"].init_std == oracle.BASE_WIDTH**-0.5  # at every width


def test_shared_readout_with_a_bias_cannot_be_called():
    embedding = nn.Embedding(10, 32)
    readout = mup.MuSharedReadout(embedding.weight)
    assert readout.bias.shape == (32,)  # one number for each of 10 classes was meant
    for parameter in readout.parameters():
        parameter.infshape = mup.zip_infshape((8,) * parameter.ndim, parameter.shape)
    with pytest.raises(RuntimeError):
        readout(torch.zeros(2, 32))

    class Tied(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.embedding, self.head = nn.Embedding(10, width), nn.Linear(width, 10)
            self.head.weight = self.embedding.weight

    ours = Tied(TARGET)
    initialize(ours, planned(Tied))
    assert ours.head(torch.ones(2, TARGET)).shape == (2, 10)


# --- what shapes say --------------------------------------------------------------------------------------------


def test_a_readout_must_be_a_mureadout_in_the_package_and_is_found_by_us():
    with pytest.raises(AssertionError, match="not type `MuReadout`"):
        based(two_layers(lambda width: nn.Linear(width, width)))
    found = planned(two_layers(lambda width: nn.Linear(width, width))).parameters["head.weight"]
    assert (found.role, found.forward) == ("output", 1 / 4)


def test_a_convolution_as_readout_gets_no_multiplier_from_the_package():
    def factory(width):
        return nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, 10, 1, bias=False))

    theirs, ours = based(factory), factory(TARGET)
    ours.load_state_dict(theirs.state_dict())
    set_multipliers(ours, planned(factory))
    x = torch.ones(1, 3, 2, 2)
    torch.testing.assert_close(theirs(x), 4 * ours(x))


@pytest.mark.parametrize("layer", [nn.ConvTranspose1d, nn.ConvTranspose2d])
def test_fan_in_of_a_transposed_convolution(layer):
    """Its weight is (in, out, …); the package reads every matrix as (out, in) unless told through `main`."""
    theirs = based(two_layers(lambda width: layer(width, width * width // 8, 3), mup.MuReadout))
    plan = planned(two_layers(lambda width: layer(width, width * width // 8, 3)))
    weight = plan.parameters["layer.weight"]
    assert (weight.m_in, weight.m_out, weight.lr) == (4, 16, 1 / 4)
    assert oracle.settings(theirs, mup.MuAdam(theirs.parameters(), lr=1.0))["layer.weight"][0] == 1 / 16
    # equal growth hides it, as most models would
    square = based(two_layers(lambda width: layer(width, width, 3), mup.MuReadout))
    assert oracle.settings(square, mup.MuAdam(square.parameters(), lr=1.0))["layer.weight"][0] == 1 / 4
    assert planned(two_layers(lambda width: layer(width, width, 3))).parameters["layer.weight"].lr == 1 / 4


class Raw(nn.Module):
    """A parameter of no layer."""

    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))


def test_a_parameter_of_no_layer_with_one_growing_dimension():
    theirs = based(two_layers(lambda width: Raw(7, width), mup.MuReadout))
    assert oracle.settings(theirs, mup.MuSGD(theirs.parameters(), lr=1.0))["layer.weight"][0] == 4  # whatever it does
    with pytest.raises(PlanError, match=r"does not tell the role(?s:.*)layer\.weight of shape \(7, 8\): output"):
        planned(two_layers(lambda width: Raw(7, width)))
    told = planned(two_layers(lambda width: Raw(7, width)), roles={"layer.weight": "input"}, optimizer="sgd")
    assert told.parameters["layer.weight"].lr == 4


def test_three_growing_dimensions_are_refused_by_both():
    theirs = based(two_layers(lambda width: nn.Bilinear(width, width, width), mup.MuReadout))
    with pytest.raises(NotImplementedError, match="more than 2 inf dimensions"):
        mup.MuAdam(theirs.parameters(), lr=1.0)
    with pytest.raises(PlanError, match="does not tell the role"):
        planned(two_layers(lambda width: nn.Bilinear(width, width, width)))


def test_without_a_delta_model_any_changed_size_is_a_width_to_the_package():
    """With a delta it asks what we ask: which sizes change from the base to a wider model of the same kind."""

    def factory(width, vocabulary):
        return nn.Sequential(nn.Embedding(vocabulary, width), mup.MuReadout(width, 5))

    def lr(model):
        return oracle.settings(model, mup.MuAdam(model.parameters(), lr=1.0))["0.weight"][0]

    larger, base, delta = factory(TARGET, 40), factory(BASE, 20), factory(DELTA, 20)
    assert lr(mup.set_base_shapes(larger, base)) == 1 / 4  # a hidden matrix, it seems
    assert lr(mup.set_base_shapes(factory(TARGET, 40), base, delta=delta)) == 1
    assert planned(lambda width: factory(width, 40)).parameters["0.weight"].role == "input"


# --- where the numbers are kept -----------------------------------------------------------------------------------


def test_numbers_on_parameters_get_lost_in_a_copy_and_ours_do_not():
    both = oracle.pair(oracle.gpt(4), oracle.hparams("adamw"))
    tokens, _ = both.batch()
    with pytest.raises(AssertionError, match="set_base_shapes"):
        copy.deepcopy(both.twin)(tokens)
    assert torch.equal(copy.deepcopy(both.ours)(tokens), both.ours(tokens))


def test_setting_base_shapes_twice_is_refused_and_applying_a_plan_twice_is_applying_it_once():
    factory = two_layers(lambda width: nn.Linear(width, width), mup.MuReadout)
    model = based(factory)
    with pytest.raises(RuntimeError, match="has been called once before already"):
        mup.set_base_shapes(model, factory(BASE), delta=factory(DELTA))
    both = oracle.pair(oracle.gpt(4), oracle.hparams("adamw"))
    before, _ = both.logits()
    set_multipliers(both.ours, both.plan)
    assert torch.equal(both.logits()[0], before)


def test_document_names_every_test_here_and_no_other():
    named = set(re.findall(r"`(test_\w+)`", (REPOSITORY / "docs" / "differences.md").read_text(encoding="utf-8")))
    here, there = (
        {name for name, value in vars(module).items() if name.startswith("test_") and callable(value)}
        for module in (sys.modules[__name__], test_oracle)
    )
    assert here - named == {"test_document_names_every_test_here_and_no_other"}
    assert named - here - there == set()
