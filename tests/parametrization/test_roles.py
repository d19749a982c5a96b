"""Roles are read off shapes, and doubtful ones are refused or reported."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mutransfer.errors import PlanError
from mutransfer.models import plan_of
from mutransfer.parametrization.roles import plan_for
from tests.conftest import build


def roles(plan):
    return {name: scaling.role for name, scaling in plan.parameters.items()}


def test_gpt(gpt):
    plan = plan_of(build(gpt, model__width=64, model__norm_gain=True, model__positions="learned"))
    found = roles(plan)
    assert found.pop("embedding.weight") == found.pop("position.weight") == "input"
    assert found.pop("readout.weight") == "output"
    norms = {name for name in found if "norm" in name}
    assert len(norms) == 3
    assert {found.pop(name) for name in norms} == {"vector"}
    assert set(found.values()) == {"hidden"}
    assert len(found) == 6


def test_width_multipliers_and_counts_really_vary(gpt):
    gpt["model"]["positions"] = "learned"
    narrow, wide = plan_of(build(gpt)), plan_of(build(gpt, model__width=64))
    assert narrow.parameters["blocks.0.down.weight"].shape == (16, 64)
    down = wide.parameters["blocks.0.down.weight"]
    assert (down.shape, down.fan_in, down.m_in, down.m_out) == ((64, 256), 256, 4, 4)
    assert narrow.parameter_count == 256 * 16 * 2 + 16 * 16 + 12 * 16**2
    assert wide.parameter_count == 256 * 64 * 2 + 16 * 64 + 12 * 64**2


def test_mlp(mlp):
    found = roles(plan_of(build(mlp, model__width=32)))
    assert found == {
        "layers.0.weight": "input",
        "layers.0.bias": "vector",
        "layers.1.weight": "hidden",
        "layers.1.bias": "vector",
        "readout.weight": "output",
        "readout.bias": "scalar",
    }


def test_tied_embedding_is_input_with_a_readout_multiplier(gpt):
    plan = plan_of(build(gpt, model__width=64, model__tied_embeddings=True))
    embedding, readout = plan.parameters["embedding.weight"], plan.parameters["readout.weight"]
    assert embedding.role == "input"
    assert embedding.tied_to is None
    assert (readout.role, readout.forward, readout.tied_to) == ("output", 1 / 4, "embedding.weight")
    assert embedding.init_std == readout.init_std == 1 / 4  # 1/√16, at every width
    assert "readout.weight" not in [name for name, one in plan.parameters.items() if one.tied_to is None]


def test_attention_scale_depends_on_how_heads_grow(gpt):
    more_heads = plan_of(build(gpt, model__width=64))
    assert set(more_heads.attention.values()) == set(more_heads.base_attention.values()) == {8**-0.5}
    wider = plan_of(build(gpt, model={**gpt["model"], "head_dim": None, "heads": 2, "width": 64}))
    assert list(wider.attention.values()) == pytest.approx([8**0.5 / 32])
    assert list(wider.base_attention.values()) == pytest.approx([8**-0.5])


class Convolutional(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.body = nn.Conv2d(width, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 10)


def test_convolution_counts_its_kernel_in_fan_in_and_not_in_m_in():
    plan = plan_for(Convolutional, width=32, base_width=8)
    body = plan.parameters["body.weight"]
    assert (body.role, body.fan_in, body.m_in, body.m_out) == ("hidden", 32 * 9, 4, 4)
    assert body.init_std == pytest.approx((32 * 9) ** -0.5)
    assert roles(plan)["stem.weight"] == "input"
    assert roles(plan)["norm.weight"] == "vector"
    assert plan.parameters["norm.weight"].init_std is None  # left as ones
    assert roles(plan)["head.weight"] == "output"


class WithRawParameter(nn.Module):
    def __init__(self, width, shape):
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(shape(width)))
        self.layer = nn.Linear(4, width)


def test_raw_parameter_with_one_growing_dimension_needs_a_role():
    def factory(width):
        return WithRawParameter(width, lambda w: (1, 7, w))

    with pytest.raises(PlanError, match=r"roles=\{'raw': 'input'\}(?s:.*)raw of shape \(1, 7, 8\): output.*; input"):
        plan_for(factory, width=16, base_width=8)
    given = plan_for(factory, width=16, base_width=8, roles={"raw": "input"})
    assert (given.parameters["raw"].role, given.parameters["raw"].m_out) == ("input", 2)


@pytest.mark.parametrize(
    ("shape", "role"),
    [
        (lambda w: (w,), "vector"),
        (lambda w: (1, 1, w), "vector"),
        (lambda w: (w, w), "hidden"),
        (lambda w: (3,), "scalar"),
        (lambda w: (), "scalar"),
    ],
)
def test_raw_parameters_whose_shape_leaves_no_doubt(shape, role):
    plan = plan_for(lambda w: WithRawParameter(w, shape), width=16, base_width=8)
    assert plan.parameters["raw"].role == role


def test_dimension_of_base_width_that_does_not_grow_is_reported():
    class Stuck(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.first = nn.Linear(5, width)
            self.second = nn.Linear(width, 8)  # the base width, typed in

    (warning,) = plan_for(Stuck, width=32, base_width=8).warnings
    assert warning.startswith("second.weight: dimension 0 is 8 at every width")
    assert not plan_for(Stuck, width=32, base_width=8, finite_sizes=(8,)).warnings
    assert not plan_for(Stuck, width=32, base_width=4).warnings


def narrowed(width, *, readout_first=False):
    model = nn.Module()
    if readout_first:
        model.readout = nn.Linear(width, 7)
    model.embedding, model.down = nn.Embedding(7, width), nn.Linear(width, 3)
    model.up = nn.Linear(3, width)
    if not readout_first:
        model.readout = nn.Linear(width, 7)
    return model


def test_a_bottleneck_is_named_with_what_to_say_of_it():
    (warning,) = plan_for(narrowed, width=32, base_width=8).warnings
    assert warning.startswith("down.weight: goes from the width to 3 at every width, so its input is")
    assert "but up.weight takes 3 inputs and comes after it" in warning
    assert 'roles: {"down.weight": output}' in warning
    for role in ("output", "hidden"):
        said = plan_for(narrowed, width=32, base_width=8, roles={"down.weight": role})
        assert said.warnings == ()
        assert said.parameters["down.weight"].init_std == pytest.approx(8**-0.5)
        assert said.parameters["down.weight"].forward == 1 / 4
        assert said.parameters["readout.weight"].init_std == 0


def test_the_last_layer_is_not_the_readout_if_it_is_said_to_be_inside():
    def factory(width):
        return nn.Sequential(nn.Linear(5, width), nn.Linear(width, 7), nn.Linear(7, 7), nn.Linear(width, 3))

    assert plan_for(factory, width=32, base_width=8).parameters["3.weight"].init_std == 0
    said = plan_for(factory, width=32, base_width=8, roles={"3.weight": "hidden"}).parameters
    assert (said["3.weight"].init_std, said["1.weight"].init_std) == (pytest.approx(8**-0.5), 0)


def test_a_readout_that_is_made_before_the_layers_it_reads_can_be_said_to_be_one():
    def factory(width):
        return narrowed(width, readout_first=True)

    warnings = plan_for(factory, width=32, base_width=8).warnings
    assert any(warning.startswith("readout.weight: goes from the width to 7") for warning in warnings)
    # By itself it is not taken for a bottleneck.
    assert plan_for(factory, width=32, base_width=8, roles={"down.weight": "hidden"}).warnings == ()


def test_shipped_models_raise_no_warning_when_sizes_coincide(gpt):
    coinciding = build(gpt, data__seq_len=16)  # seq_len = base width
    assert plan_of(coinciding).warnings == ()
    wide_base = build(gpt, model={**gpt["model"], "width": 256, "base_width": 256})  # vocabulary = base width
    assert plan_of(wide_base).warnings == ()


def test_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(PlanError, match=r"'heed.*' matches nothing"):
        plan_for(Convolutional, width=32, base_width=8, init_std={"heed.*": 0.0})


def test_unknown_role_is_an_error():
    with pytest.raises(PlanError, match="must be one of input, hidden"):
        plan_for(Convolutional, width=32, base_width=8, roles={"head.weight": "readout"})


def test_width_may_change_sizes_only():
    class Deeper(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(width // 8))

    with pytest.raises(PlanError, match="other parameters at another width"):
        plan_for(Deeper, width=32, base_width=8)


def test_planning_allocates_nothing_and_keeps_the_random_state():
    state = torch.random.get_rng_state()
    plan = plan_for(lambda w: nn.Sequential(nn.Linear(8, w), nn.Linear(w, w)), width=1 << 20, base_width=8)
    assert plan.parameters["1.weight"].shape == (1 << 20, 1 << 20)  # 4 TiB in fp32
    assert torch.equal(state, torch.random.get_rng_state())


class Wrapped(nn.Module):
    """A layer between a first layer and a readout."""

    def __init__(self, layer, width):
        super().__init__()
        self.first, self.layer, self.head = nn.Linear(3, width), layer, nn.Linear(width, 10)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda w: nn.ConvTranspose1d(w, w, 3, groups=w), "transposed convolution with groups"),
        (lambda w: nn.MultiheadAttention(w, 2), "1/√head_dim inside"),
        (lambda w: nn.MultiheadAttention(w, w // 4, kdim=24, vdim=24), "kdim, vdim or add_bias_kv"),
        (lambda w: nn.MultiheadAttention(w, w // 4, add_bias_kv=True), "kdim, vdim or add_bias_kv"),
    ],
)
def test_layers_that_would_silently_go_wrong_are_refused(layer, message):
    with pytest.raises(PlanError, match=message):
        plan_for(lambda w: Wrapped(layer(w), w), width=32, base_width=8)


def test_attention_of_torch_with_heads_that_multiply_is_planned():
    found = plan_for(lambda w: Wrapped(nn.MultiheadAttention(w, w // 4), w), width=32, base_width=8)
    assert roles(found)["layer.in_proj_weight"] == roles(found)["layer.out_proj.weight"] == "hidden"


def test_depthwise_convolution_is_a_vector():
    scaling = plan_for(lambda w: Wrapped(nn.Conv1d(w, w, 3, groups=w), w), width=32, base_width=8).parameters
    depthwise = scaling["layer.weight"]
    assert (depthwise.role, depthwise.m_in, depthwise.m_out, depthwise.weight_decay) == ("vector", 1, 4, 0)
    assert depthwise.init_std == pytest.approx(3**-0.5)


def test_model_without_a_readout_is_reported():
    (warning,) = plan_for(lambda w: nn.Embedding(7, w), width=32, base_width=8).warnings
    assert "no parameter is a readout" in warning


def test_impossible_widths_and_models_are_refused():
    with pytest.raises(PlanError, match="base_width must be >= 1, but got 0"):
        plan_for(Convolutional, width=32, base_width=0)

    def reads_values(width):
        return nn.Linear(3, int(torch.ones(1).item()) * width)

    with pytest.raises(PlanError, match="cannot be built at width 8 on the meta device"):
        plan_for(reads_values, width=32, base_width=8)


def test_every_weight_without_a_role_is_in_one_message():
    class Experts(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.up, self.gate = nn.Parameter(torch.zeros(4, 2 * width, width)), nn.Parameter(torch.zeros(4, width))
            self.head = nn.Linear(width, 3)

    with pytest.raises(PlanError) as caught:
        plan_for(Experts, width=16, base_width=8)
    assert "up of shape (4, 16, 8): hidden, if activations" in str(caught.value)
    assert "gate of shape (4, 8): output, if activations" in str(caught.value)
    given = plan_for(Experts, width=32, base_width=8, roles={"up": "hidden", "gate": "output"}).parameters
    assert (given["up"].m_in, given["up"].m_out, given["up"].lr) == (4, 4, 0.25)
    # Without a multiplier: init and lr times 1/m, and it does not start at zero, since it is not the readout.
    assert (given["gate"].forward, given["gate"].lr, given["gate"].init_std) == (1.0, 0.25, pytest.approx(8**-0.5 / 4))


def test_a_name_with_brackets_is_a_pattern_for_itself():
    class Tables(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.tables = nn.ParameterDict({"user[id]": torch.zeros(5, width)})
            self.head = nn.Linear(width, 3)

    plan = plan_for(Tables, width=16, base_width=8, roles={"tables.user[id]": "input"})
    assert plan.parameters["tables.user[id]"].role == "input"


def test_a_lazy_layer_is_named():
    with pytest.raises(PlanError, match=r"1\.weight: belongs to a lazy layer"):
        plan_for(lambda w: nn.Sequential(nn.Linear(3, w), nn.LazyLinear(w), nn.Linear(w, 2)), width=16, base_width=8)


@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_have_rules(cell):
    plan = plan_for(lambda w: Wrapped(cell(w, w, 2), w), width=32, base_width=8)
    inner = {name: one for name, one in plan.parameters.items() if name.startswith("layer.")}
    assert {one.role for name, one in inner.items() if "weight" in name} == {"hidden"}
    assert {one.init_std for name, one in inner.items() if "weight" in name} == {1 / math.sqrt(32)}
    assert {one.init_std for name, one in inner.items() if "bias" in name} == {0.0}
    first = plan_for(lambda w: nn.ModuleList([cell(3, w), nn.Linear(w, 2)]), width=32, base_width=8).parameters
    assert first["0.weight_ih_l0"].role == "input"


def test_an_embedding_owns_what_it_shares_whichever_is_registered_first():
    def tied(width, *, head_first):
        table, head = nn.Embedding(7, width), nn.Linear(width, 7, bias=False)
        head.weight = table.weight
        return nn.ModuleDict({"head": head, "table": table} if head_first else {"table": table, "head": head})

    plans = [plan_for(lambda w, order=order: tied(w, head_first=order), width=32, base_width=8)
             for order in (False, True)]  # fmt: skip
    assert plans[0].parameters == plans[1].parameters
    assert plans[1].parameters["head.weight"].tied_to == "table.weight"
