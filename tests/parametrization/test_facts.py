"""What a model declares: one typed object, in which nothing can be mistyped in silence."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mutransfer.errors import PlanError
from mutransfer.parametrization.apply import OUTPUT_MULTIPLIER, initialize
from mutransfer.parametrization.facts import ModelFacts, carry, facts_of
from mutransfer.parametrization.roles import plan_for


class Experts(nn.Module):
    """An embedding, a router (width → finite), a hidden layer, an auxiliary head, and a readout."""

    def __init__(self, width, facts=None):
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.router = nn.Linear(width, 4, bias=False)
        self.up = nn.Linear(width, width, bias=False)
        self.auxiliary = nn.Linear(width, 3, bias=False)
        self.readout = nn.Linear(width, 11, bias=False)
        if facts is not None:
            self.anything = facts


def planned(facts=None, **options):
    return plan_for(lambda width: Experts(width, facts), width=32, base_width=8, **options)


def test_an_unknown_field_is_an_error_with_the_nearest_name():
    with pytest.raises(PlanError, match=r"ModelFacts has no field readout; did you mean readouts\?"):
        ModelFacts(readout=("head",))
    with pytest.raises(PlanError, match=r"ModelFacts\.attention\.heads"):
        ModelFacts(attention={"heads": "many"})


@pytest.mark.parametrize(
    "field", ["readouts", "positions", "finite", "blocks", "relative", "attention", "gains", "roles"]
)
def test_a_name_that_matches_nothing_is_an_error_with_the_nearest_name(field):
    name = "readuot.weight" if field == "roles" else "readuot"
    value = {"attention": {name: 4}, "gains": {name: 2.0}, "roles": {name: "hidden"}}.get(field, (name,))
    with pytest.raises(PlanError, match=rf"{field}: '{name}' matches nothing.*did you mean readout"):
        planned(ModelFacts(**{field: value}))


def test_only_readouts_are_divided_by_the_temperature_and_start_at_zero():
    plan = planned(ModelFacts(readouts=("readout",), roles={"router.weight": "output", "auxiliary.weight": "output"}))
    assert plan.warnings == ()
    assert {name for name, one in plan.modules.items() if one.hparam == "temperature"} == {"readout"}
    assert {name for name, one in plan.parameters.items() if one.init_std == 0} == {"readout.weight"}
    assert {plan.parameters[f"{name}.weight"].forward for name in ("router", "auxiliary", "readout")} == {1 / 4}
    model = Experts(32)
    initialize(model, plan, temperature=4.0)
    assert float(getattr(model.readout, OUTPUT_MULTIPLIER)) == 1 / 4
    assert not hasattr(model.router, OUTPUT_MULTIPLIER)


def test_without_facts_the_last_layers_are_the_readouts_and_the_router_is_asked_about():
    plan = planned()
    assert {name for name, one in plan.modules.items() if one.hparam == "temperature"} == {"auxiliary", "readout"}
    (warning,) = plan.warnings
    assert warning.startswith("router.weight: goes from the width to 4 at every width")
    followed = planned(roles={"router.weight": "output"})  # what the warning says to write
    assert followed.warnings == ()
    assert followed.modules["router"].hparam is None


def test_a_module_that_does_not_produce_logits_is_not_a_readout():
    with pytest.raises(
        PlanError, match=r"up has no weight from the width to a constant size.*router, auxiliary, readout"
    ):
        planned(ModelFacts(readouts=("up",)))
    with pytest.raises(PlanError, match="up is not an embedding or a first layer"):
        planned(ModelFacts(positions=("up",)))


def test_facts_are_carried_returned_or_given():
    facts = ModelFacts(readouts=("readout",))
    carried = planned(facts)
    returned = plan_for(lambda width: (Experts(width), facts), width=32, base_width=8)
    given = plan_for(Experts, width=32, base_width=8, facts=facts)
    by_width = plan_for(Experts, width=32, base_width=8, facts=lambda width: facts)
    assert carried.fingerprint == returned.fingerprint == given.fingerprint == by_width.fingerprint
    assert carried.fingerprint != planned().fingerprint
    model = Experts(8, facts)
    carry(model, facts.extended(finite=["up"]))
    assert facts_of(model).finite == ("up",)
    model.second = ModelFacts()
    with pytest.raises(PlanError, match="carries 2 ModelFacts"):
        facts_of(model)


class Attentive(nn.Module):
    def __init__(self, width, buffer, facts):
        super().__init__()
        self.attention = nn.Linear(width, width)
        self.attention.register_buffer(buffer, torch.tensor(1.0), persistent=False)
        self.readout = nn.Linear(width, 3)
        self.facts = facts


@pytest.mark.parametrize(
    ("buffer", "field", "value"),
    [
        ("attention_scale", "attention", {"attention": 4}),
        ("residual_scale", "blocks", ("attention",)),
        ("relative_scale", "relative", ("attention",)),
    ],
)
def test_a_buffer_and_its_fact_belong_together(buffer, field, value):
    def build(name, **facts):
        return plan_for(lambda width: Attentive(width, name, ModelFacts(**facts)), width=32, base_width=8)

    build(buffer, **{field: value})
    with pytest.raises(PlanError, match=rf"attention has a buffer {buffer}, and ModelFacts\.{field} does not name it"):
        build(buffer)
    with pytest.raises(PlanError, match=rf"attention has no buffer {buffer}.*its buffer {buffer}s has another name"):
        build(f"{buffer}s", **{field: value})


def test_an_attention_module_that_knows_its_head_size_need_not_be_named():
    def build(width):
        model = Attentive(width, "attention_scale", ModelFacts())
        model.attention.head_dim = width // 2
        return model

    assert plan_for(build, width=32, base_width=8).attention == {"attention": math.sqrt(4) / 16}
