"""What the plan says is what the model and the optimizer get, at base width exactly what PyTorch would do."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mutransfer.errors import PlanError
from mutransfer.models import build_model, plan_of
from mutransfer.parametrization.apply import initialize, parameter_groups, set_multipliers
from mutransfer.parametrization.facts import ModelFacts
from mutransfer.parametrization.roles import plan_for
from mutransfer.training.learner import Learner
from tests.conftest import build


def made(config):
    model, plan = build_model(config.model, config.data.spec), plan_of(config)
    initialize(model, plan, seed=3, init_scale=config.hparams.init_scale)
    return model, plan


def test_initial_std_is_the_planned_one(gpt):
    config = build(gpt, model__width=128, model__zero_query=False, model__zero_readout=False, hparams__init_scale=0.5)
    model, plan = made(config)
    for name, parameter in model.named_parameters():
        expected = plan.parameters[name].init_std * 0.5
        spread = expected / math.sqrt(2 * parameter.numel())  # standard error of a normal's sample std
        assert abs(parameter.std().item() - expected) < 5 * spread, name
    # the control: hidden weights at the readout's or embedding's std would be caught
    hidden = model.blocks[0].up.weight
    wrong = plan.parameters["embedding.weight"].init_std * 0.5
    assert abs(hidden.std().item() - wrong) > 5 * wrong / math.sqrt(2 * hidden.numel())


def test_readout_and_query_start_at_zero_by_default(gpt):
    model, _ = made(build(gpt, model__width=32))
    assert not model.readout.weight.any()
    assert not model.blocks[0].attention.query.weight.any()
    assert model.blocks[0].attention.key.weight.any()


def test_initialization_is_a_function_of_seed_and_name(gpt):
    config = build(gpt)
    first, plan = made(config)
    again, _ = made(config)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    deeper, _ = made(build(gpt, model__depth=2))
    assert torch.equal(first.blocks[0].up.weight, deeper.blocks[0].up.weight)
    initialize(again, plan, seed=4)
    assert not torch.equal(first.embedding.weight, again.embedding.weight)


def test_applying_twice_is_applying_once(gpt):
    config = build(gpt, model__width=64, model__zero_readout=False)
    model, plan = made(config)
    tokens = torch.arange(16)[None]
    once = model(tokens)
    initialize(model, plan, seed=3)
    set_multipliers(model, plan)
    assert torch.equal(once, model(tokens))


def test_readout_is_divided_by_m_and_temperature(gpt):
    config = build(gpt, model__width=64, model__zero_readout=False)
    model, plan = made(config)
    tokens = torch.arange(16)[None]
    hidden = {}
    model.norm.register_forward_hook(lambda module, inputs, output: hidden.update(x=output))
    logits = model(tokens)
    torch.testing.assert_close(logits, F.linear(hidden["x"] / 4, model.readout.weight))
    set_multipliers(model, plan, temperature=2.0)
    assert torch.equal(model(tokens), logits / 2)


def test_embedding_and_position_scale(gpt):
    config = build(gpt, model__positions="learned")
    model, plan = made(config)
    tokens = torch.arange(16)[None]
    set_multipliers(model, plan, embedding_scale=2.0, position_scale=4.0)
    assert torch.equal(model.embedding(tokens), 2 * model.embedding.weight[tokens])
    assert torch.equal(model.position(tokens), 4 * model.position.weight[tokens])


def test_attention_temperature_multiplies_the_planned_scale(gpt):
    model, plan = made(build(gpt, model={**gpt["model"], "head_dim": None, "heads": 2, "width": 64}))
    attention = model.blocks[0].attention
    assert attention.attention_scale.item() == pytest.approx(math.sqrt(8) / 32)
    set_multipliers(model, plan, attention_temperature=4.0)
    assert attention.attention_scale.item() == pytest.approx(math.sqrt(8) / 128)


def test_multipliers_are_buffers_that_can_be_stacked(gpt):
    config = build(gpt, model__width=32)
    model, _ = made(config)
    clone = copy.deepcopy(model)
    tokens = torch.arange(16)[None]
    assert torch.equal(clone(tokens), model(tokens))
    doubled = {"readout.mup_output_multiplier": torch.tensor(2.0), "readout.weight": torch.ones(256, 32)}
    plain = {"readout.weight": torch.ones(256, 32)}
    stacked = torch.func.functional_call(model, doubled, (tokens,))
    torch.testing.assert_close(stacked, 2 * torch.func.functional_call(model, plain, (tokens,)))


def test_groups_hold_every_parameter_once_with_the_planned_settings(gpt):
    config = build(gpt, model__width=64, model__norm_gain=True)
    model, plan = made(config)
    groups = parameter_groups(model, plan, lr=0.25, weight_decay=0.5, eps=2.0**-20)
    found = {}
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert parameter is model.get_parameter(name)
            found[name] = (group["lr"], group["weight_decay"], group["eps"])
    assert found.keys() == dict(model.named_parameters()).keys()
    assert found["embedding.weight"] == (0.25, 0.5, 2.0**-22)
    assert found["blocks.0.up.weight"] == (0.0625, 2.0, 2.0**-22)
    assert found["readout.weight"] == (0.25, 0.5, 2.0**-22)
    assert found["norm.weight"] == (0.25, 0.0, 2.0**-22)


def test_plan_of_another_model_or_width_is_refused(gpt, mlp):
    model = build_model(build(gpt).model, build(gpt).data.spec)
    with pytest.raises(PlanError, match=r"another width: embedding\.weight has shape \(256, 16\), and the plan says"):
        initialize(model, plan_of(build(gpt, model__width=32)))
    with pytest.raises(PlanError, match="another model"):
        parameter_groups(model, plan_of(build(mlp)), lr=1.0)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_readout_outside_any_layer_trains_as_one_with_a_multiplier(optimizer):
    class Head(nn.Module):
        def __init__(self, width, *, raw):
            super().__init__()
            self.layer = nn.Linear(4, width)
            self.head = nn.Parameter(torch.zeros(10, width)) if raw else nn.Linear(width, 10, bias=False)

        def forward(self, x):
            x = self.layer(x).relu()
            return F.linear(x, self.head) if isinstance(self.head, nn.Parameter) else self.head(x)

    x, outputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), []
    for raw in (False, True):
        roles = {"head": "output"} if raw else {}
        plan = plan_for(lambda w, raw=raw: Head(w, raw=raw), width=32, base_width=8, optimizer=optimizer, roles=roles)
        model = Head(32, raw=raw)
        initialize(model, plan, temperature=0.5)
        groups = parameter_groups(model, plan, lr=0.01)
        trained = (torch.optim.AdamW if optimizer == "adamw" else torch.optim.SGD)(groups)
        for _ in range(5):
            trained.zero_grad()
            (model(x) - 1).square().mean().backward()
            trained.step()
        outputs.append(model(x).detach())
    torch.testing.assert_close(outputs[0], outputs[1])
    assert outputs[0].abs().max() > 1e-3


def test_a_tied_readout_outside_any_layer_is_refused():
    class Raw(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.table = nn.Embedding(10, width)
            self.head = self.table.weight

    plan = plan_for(Raw, width=16, base_width=8, roles={"head": "output"})
    with pytest.raises(PlanError, match=r"its weight is not in a layer.*nn\.Linear"):
        initialize(Raw(16), plan)


class Frozen(nn.Module):
    """An embedding that stays, and one whose values are kept and trained."""

    def __init__(self, width):
        super().__init__()
        self.fixed, self.kept = nn.Embedding(5, width), nn.Linear(width, width)
        self.fixed.weight.requires_grad_(False)
        self.head = nn.Linear(width, 3)
        self.facts = ModelFacts(as_made=("kept",))


def test_frozen_weights_and_those_as_made_keep_their_values():
    model = Frozen(16)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    plan = plan_for(Frozen, width=16, base_width=8)
    initialize(model, plan)
    same = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert same == {"fixed.weight", "kept.weight", "kept.bias"}
    assert plan.parameters["fixed.weight"].frozen
    names = {name for group in parameter_groups(model, plan, lr=0.1) for name in group["names"]}
    assert names == {"kept.weight", "kept.bias", "head.weight", "head.bias"}
    with pytest.raises(PlanError, match=r"init_std: fixed\.weight is not trained"):
        plan_for(Frozen, width=16, base_width=8, init_std={"fixed.*": 1.0})
    model.requires_grad_(False)
    with pytest.raises(PlanError, match="no parameter that is trained"):
        parameter_groups(model, plan, lr=0.1)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_readout_that_keeps_its_values_keeps_its_function(frozen):
    def pretrained(width):
        model = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))
        model[1].weight.requires_grad_(not frozen)
        return model, ModelFacts(as_made=("*",))

    model, x = pretrained(32)[0], torch.randn(2, 4)
    expected, plan = model(x), plan_for(pretrained, width=32, base_width=8)
    initialize(model, plan)
    assert torch.equal(model(x), expected)
    assert plan.parameters["1.weight"].lr == 1 / 4  # of the rule without a multiplier


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_at_base_width_training_is_standard_pytorch_bit_by_bit(gpt, optimizer):
    decay = 0.0 if optimizer == "adam" else 0.1
    config = build(gpt, hparams={"optimizer": optimizer, "lr": 0.01, "weight_decay": decay, "schedule": "constant",
                                 "warmup": 0.0}, model__zero_readout=False)  # fmt: skip
    learner = Learner(config, torch.device("cpu"))
    plain = build_model(config.model, config.data.spec)  # no multipliers installed
    plain.load_state_dict(dict(learner.model.named_parameters()))
    if optimizer == "sgd":
        standard = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9, weight_decay=decay, fused=True)
    else:
        kind = torch.optim.AdamW if optimizer == "adamw" else torch.optim.Adam
        standard = kind(plain.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=decay, fused=True)
    for step in range(5):
        tokens = torch.randint(0, 256, (4, 17), generator=torch.Generator().manual_seed(step))
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        loss = learner.train_step(step, (inputs.numpy(), targets.numpy()))
        expected = F.cross_entropy(plain(inputs).flatten(0, -2), targets.flatten())
        standard.zero_grad()
        expected.backward()
        standard.step()
        assert loss.item() == expected.item()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_updates_move_the_output_alike_at_every_width_and_grow_in_sp(mlp, optimizer):
    """One step of size η changes logits by O(1) under µP; the control must show that the measure can fail."""

    def slope(parametrization):
        widths, changes = [64, 128, 256, 512], []
        for width in widths:
            hparams = {"optimizer": optimizer, "lr": 0.001, "schedule": "constant", "warmup": 0.0}
            config = build(mlp, model__width=width, parametrization=parametrization, hparams=hparams)
            learner = Learner(config, torch.device("cpu"))
            generator = torch.Generator().manual_seed(0)
            batch = torch.randn(64, 1, 8, 8, generator=generator), torch.randint(0, 10, (64,), generator=generator)
            before = learner.model(batch[0]).detach()
            for step in range(3):
                learner.train_step(step, tuple(tensor.numpy() for tensor in batch))
            changes.append((learner.model(batch[0]) - before).abs().mean().item())
        x = torch.tensor(widths).log2()
        y = torch.tensor(changes).log2()
        return (((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()).item()

    assert abs(slope("mup")) < 0.15
    assert slope("sp") > 0.5


def planned(factory, **arguments):
    plan = plan_for(factory, width=32, base_width=8, **arguments)
    model = factory(32)
    initialize(model, plan)
    return model, plan


def test_padding_row_of_an_embedding_stays_zero():
    model, _ = planned(lambda w: nn.Sequential(nn.Embedding(5, w, padding_idx=0), nn.Linear(w, 3)))
    assert not model[0].weight[0].any()
    assert model[0].weight[1].any()


def test_readout_called_with_a_keyword_is_scaled_too():
    class Keyword(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.first = nn.Linear(4, width)
            self.head = nn.Linear(width, 3, bias=False)
            self.input_multiplier = "the user's own"

        def forward(self, x):
            return self.head(input=self.first(x))

    model, _ = planned(Keyword, zero_readout=False)
    x = torch.randn(2, 4)
    torch.testing.assert_close(model(x), F.linear(model.first(x) / 4, model.head.weight))
    assert model.input_multiplier == "the user's own"


@pytest.mark.parametrize("name", ["embed.weight", "head.weight"])
def test_explicit_std_wins_over_the_models_own_under_either_name_of_a_tied_weight(name):
    class Tied(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.facts = ModelFacts(init_std={"*": 0.5})
            self.embed = nn.Embedding(400, width)
            self.head = nn.Linear(width, 400, bias=False)
            self.head.weight = self.embed.weight

    model, plan = planned(Tied, init_std={name: 0.01})
    assert plan.parameters["embed.weight"].init_std == plan.parameters["head.weight"].init_std == 0.01
    assert model.embed.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_adam_with_coupled_decay_is_refused():
    model, plan = planned(lambda w: nn.Sequential(nn.Linear(4, w), nn.Linear(w, 3)), optimizer="adam")
    with pytest.raises(PlanError, match="coupled L2 has no width-independent rule"):
        parameter_groups(model, plan, lr=1.0, weight_decay=0.1)
    assert parameter_groups(model, plan, lr=1.0)


def test_epsilon_follows_the_gradient_of_hidden_weights():
    """RMS gradients of a rectangular hidden weight fall with its fan-out, not its fan-in; so must ε."""

    class Rectangular(nn.Module):
        def __init__(self, width, narrow_in, narrow_out):
            super().__init__()
            self.first = nn.Linear(16, width // 16 if narrow_in else width)
            self.hidden = nn.Linear(self.first.out_features, width // 16 if narrow_out else width)
            self.head = nn.Linear(self.hidden.out_features, 10)

        def forward(self, x):
            return self.head(torch.tanh(self.hidden(torch.tanh(self.first(x)))))

    def gradient(**narrow):
        def factory(width):
            return Rectangular(width, **narrow)

        plan = plan_for(factory, width=1024, base_width=64, zero_readout=False)
        model = factory(1024)
        initialize(model, plan)
        x = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
        F.cross_entropy(model(x), torch.arange(256) % 10).backward()
        return model.hidden.weight.grad.square().mean().sqrt().item(), plan.parameters["hidden.weight"].eps

    square, square_eps = gradient(narrow_in=False, narrow_out=False)
    narrow_in, narrow_in_eps = gradient(narrow_in=True, narrow_out=False)
    assert square_eps == narrow_in_eps == 1 / 16
    assert 0.5 < square / narrow_in < 2  # the fan-in is 16 times as large and the gradient is not smaller
