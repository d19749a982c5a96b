"""LoRA of the package peft: roles of its weights, what stays of the base, and in which order to call."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mutransfer as mt
from mutransfer.errors import PlanError
from mutransfer.models.huggingface_config import transformers
from mutransfer.verification import coordinate_check

if importlib.util.find_spec("peft") is None:
    pytest.skip("needs the extra integrations (peft)", allow_module_level=True)
transformers()  # imports torchvision with care, which peft does not
import peft  # noqa: E402

X = torch.arange(11)


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(11, width), nn.Linear(width, width), nn.Linear(width, 7)

    def forward(self, x):
        x = self.table(x)
        return self.head((x + self.body(x)).relu())


def adapted(width, base=None, targets=("body",), **settings):
    config = peft.LoraConfig(r=4, target_modules=list(targets), **settings)
    return peft.get_peft_model(base or Net(width), config)


def with_head(width):
    return adapted(width, modules_to_save=["head"])


def planned(factory=adapted, **arguments):
    return mt.plan_for(factory, width=32, base_width=8, **arguments)


@pytest.mark.parametrize("how", ["kaiming", "gaussian", "pissa"])
def test_a_and_b_are_hidden_and_all_values_stay(how):
    model = adapted(32, init_lora_weights=True if how == "kaiming" else how, bias="lora_only")
    plan = planned(lambda width: adapted(width, bias="lora_only"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mt.initialize(model, plan)
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert {float(after[name]) for name in after.keys() - before.keys()} == {1.0}
    (a, b), own = (f"body.lora_{one}.default.weight" for one in "AB"), plan.parameters
    assert [(own[name].role, own[name].m_in, own[name].m_out) for name in (a, b)] == [
        ("hidden", 4, 1),
        ("hidden", 1, 4),
    ]
    assert [(own[name].lr, own[name].eps) for name in (a, b)] == [(0.25, 1.0), (1.0, 0.25)]
    sgd = planned(optimizer="sgd").parameters
    assert [sgd[name].lr for name in (a, b)] == [0.25, 4.0]
    assert {name for name, one in own.items() if not one.frozen} == {a, b, "body.bias"}
    assert {name for group in mt.parameter_groups(model, plan, lr=1.0) for name in group["names"]} == {
        a,
        b,
        "body.bias",
    }


def test_lora_passes_the_coordinate_check_and_one_lr_for_both_fails_it():
    fresh_head = {"head.modules_to_save.default.weight": 0.0}
    common = {"inputs": X, "targets": X % 7, "widths": (64, 128, 256, 512), "base_width": 64, "lr": 0.02, "seeds": 3,
              "control": False}  # fmt: skip

    def one_lr(model, width):
        plan = mt.plan_for(with_head, width=width, base_width=64, init_std=fresh_head)
        mt.initialize(model, plan)
        return torch.optim.AdamW([{**group, "lr": 0.02} for group in mt.parameter_groups(model, plan, lr=0.02)])

    check = coordinate_check(with_head, plan_options={"init_std": fresh_head}, **common)
    assert check.outcome == "passed", check.sentence
    wrong = coordinate_check(with_head, prepare=lambda model, width: None, make_optimizer=one_lr, **common)
    assert (wrong.outcome, wrong.culprit) == ("failed", "body.lora_A.default")


def test_multipliers_of_a_base_that_was_trained_with_a_plan_survive():
    base = Net(32)
    mt.initialize(base, planned(Net, zero_readout=False))
    expected = base(X)
    model = adapted(32, base)
    mt.initialize(model, planned())
    assert torch.equal(model(X), expected)
    assert torch.equal(model.merge_and_unload()(X), expected)


def test_a_frozen_readout_of_a_plain_checkpoint_is_not_multiplied():
    model = adapted(32)
    expected = model(X)
    mt.initialize(model, planned())
    assert torch.equal(model(X), expected)


def test_a_copy_of_a_layer_keeps_its_function_or_starts_anew():
    name, model = "head.modules_to_save.default.weight", with_head(32)
    plan, expected = planned(with_head), model(X)
    mt.initialize(model, plan)
    assert torch.equal(model(X), expected)
    own = plan.parameters[name]
    assert (own.role, own.init_std, own.forward, own.lr) == ("output", None, 1.0, 0.25)
    plan = planned(with_head, init_std={name: 0.0})
    own = plan.parameters[name]
    assert (own.role, own.init_std, own.forward, own.lr) == ("output", 0.0, 0.25, 1.0)
    mt.initialize(model, plan)
    copied = model.get_submodule("base_model.model.head.modules_to_save.default")
    assert not copied.weight.any()
    assert copied.mup_input_multiplier == 0.25


def test_the_order_of_calls_is_said():
    plan, wrapped = planned(Net), adapted(32)
    with pytest.raises(PlanError, match=r"body\.lora_A\.default\.weight of PEFT is not in the plan.*get_peft_model"):
        mt.set_multipliers(wrapped, plan)
    with pytest.raises(PlanError, match=r"in the plan and not in the model: call get_peft_model first"):
        mt.parameter_groups(Net(32), planned(), lr=0.1)


def test_lora_on_a_layer_with_a_multiplier_is_refused():
    base = Net(32)
    mt.initialize(base, planned(Net, zero_readout=False))

    def factory(width):
        return adapted(width, targets=("body", "head"))

    model = adapted(32, base, targets=("body", "head"))
    for call in (mt.initialize, lambda model, plan: mt.parameter_groups(model, plan, lr=0.1)):
        with pytest.raises(
            PlanError, match=r"head: LoRA is added to a layer whose input is multiplied by 0.25.*target"
        ):
            call(model, planned(factory))
    mt.initialize(factory(32), planned(factory))  # of a plain checkpoint there is no multiplier
    with pytest.raises(PlanError, match=r"whose output is multiplied by 0.5"):
        mt.set_multipliers(factory(32), planned(factory), temperature=2.0)


def test_other_methods_of_peft_are_refused_by_name():
    def other(width):
        return peft.get_peft_model(Net(width), peft.IA3Config(target_modules=["body"], feedforward_modules=[]))

    with pytest.raises(PlanError, match=r"no rule for IA3Model of PEFT; LoRA"):
        planned(other)


def test_lora_on_a_table_needs_a_role_and_the_message_says_which():
    def factory(width):
        return adapted(width, targets=("table",))

    with pytest.raises(PlanError, match=r"lora_embedding_B\.default.*input, if it is looked up"):
        planned(factory)
    plan = planned(factory, roles={"*lora_embedding_B*": "input"})
    assert (
        plan.parameters["table.lora_embedding_B.default"].lr,
        plan.parameters["table.lora_embedding_A.default"].lr,
    ) == (1, 1)


def test_gradients_reach_both_after_a_step():
    model, plan = adapted(32), planned()
    mt.initialize(model, plan)
    optimizer, losses = torch.optim.AdamW(mt.parameter_groups(model, plan, lr=0.05)), []
    for _ in range(30):
        loss = F.cross_entropy(model(X), X % 7)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
