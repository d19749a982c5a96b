"""Where our rules and those of microsoft's `mup` package agree, everything that follows from them is equal.

docs/differences.md tells what is compared here; test_oracle_differences.py pins what differs.
"""

from __future__ import annotations

from dataclasses import replace

import mup
import pytest
import torch
from torch import nn

from mutransfer.parametrization import rules
from mutransfer.parametrization.apply import initialize, parameter_groups
from mutransfer.parametrization.roles import plan_for
from mutransfer.training import learner
from tests.conftest import build
from tests.parametrization import oracle

WIDTH_MULTIPLIERS = [1, 2, 4, 8]
OPTIMIZERS = ["adam", "adamw", "sgd"]
SECTIONS = {
    "gpt-more-heads": oracle.gpt,
    "gpt-wider-heads": lambda m: oracle.gpt(m, heads=2),
    "gpt-tied-more-heads": lambda m: oracle.gpt(m, tied_embeddings=True),
    "gpt-tied-wider-heads": lambda m: oracle.gpt(m, tied_embeddings=True, heads=2),
    "gpt-rotary": lambda m: oracle.gpt(m, positions="rotary", heads=2),
    "mlp": oracle.mlp,
}
every_section = pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS.keys())
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
every_width = pytest.mark.parametrize("m", WIDTH_MULTIPLIERS)


@every_section
@every_width
def test_init_std(section, m):
    oracle.assert_same_init(oracle.pair(section(m), oracle.hparams("adamw")))


@every_section
@every_optimizer
@every_width
def test_lr_and_weight_decay_of_every_parameter(section, optimizer, m):
    oracle.assert_same_settings(oracle.pair(section(m), oracle.hparams(optimizer)))


@every_section
@every_width
def test_logits(section, m):
    oracle.assert_same_logits(oracle.pair(section(m), oracle.hparams("adamw")))


@every_section
@every_optimizer
@every_width
def test_losses_of_the_first_steps(section, optimizer, m):
    oracle.assert_same_losses(oracle.pair(section(m), oracle.hparams(optimizer)))


@pytest.mark.parametrize(
    "section", [oracle.gpt(4, heads=2), oracle.gpt(4, tied_embeddings=True), oracle.mlp(4, bias=False)]
)
@every_optimizer
def test_temperatures_are_output_mult_and_a_factor_on_attention(section, optimizer):
    both = oracle.pair(section, oracle.hparams(optimizer, temperature=3.0, attention_temperature=0.7))
    oracle.assert_same_logits(both)
    oracle.assert_same_losses(both)


def test_width_that_is_no_power_of_two_times_the_base():
    for optimizer in OPTIMIZERS:
        both = oracle.pair(oracle.gpt(3, heads=2), oracle.hparams(optimizer))
        oracle.assert_same_init(both)
        oracle.assert_same_settings(both)
        oracle.assert_same_logits(both)
        oracle.assert_same_losses(both)


@every_optimizer
@pytest.mark.parametrize("m", [1, 4])
def test_the_real_learner_in_float32(gpt, optimizer, m):
    """The step that every command takes, not the float64 one above: equal within float32's digits."""
    given = oracle.hparams(optimizer, lr=0.01).model_dump(exclude_none=True)
    model = {"kind": "gpt", "width": 16 * m, "base_width": 16, "depth": 1, "heads": 2, "zero_readout": False,
             "zero_query": False}  # fmt: skip
    ours = learner.Learner(build(gpt, model=model, hparams=given), torch.device("cpu"))
    spec, section = ours.config.data.spec, ours.config.model
    copy = oracle.twin(section, spec).float()
    copy.load_state_dict(dict(ours.model.named_parameters()))
    theirs = oracle.mup_optimizer(copy, ours.config.hparams)
    batches = []
    for step in range(5):
        tokens = torch.randint(0, spec.vocab_size, (4, 17), generator=torch.Generator().manual_seed(step))
        batches.append((tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()))
    own = [ours.train_step(step, tuple(one.numpy() for one in batch)).item() for step, batch in enumerate(batches)]
    assert own == pytest.approx(oracle.train(copy, theirs, batches), rel=1e-5)


def test_no_decay_unless_asked_for():
    """torch.optim.AdamW decays by 0.01 when told nothing; neither of us does."""
    both = oracle.pair(oracle.gpt(2), oracle.hparams("adamw"))
    theirs = mup.MuAdamW(both.twin.parameters(), lr=0.1)
    assert {group["weight_decay"] for group in theirs.param_groups} == {0.0}
    assert {group["weight_decay"] for group in parameter_groups(both.ours, both.plan, lr=0.1)} == {0.0}


UNIT_UNIFORM = lambda tensor: nn.init.uniform_(tensor, -(3**0.5), 3**0.5)  # noqa: E731
SCHEMES = {
    "normal": (lambda tensor: mup.init.normal_(tensor, std=0.02), nn.init.normal_),
    "uniform": (lambda tensor: mup.init.uniform_(tensor, -0.1, 0.1), UNIT_UNIFORM),
    "truncated": (mup.init.trunc_normal_, nn.init.trunc_normal_),
    "xavier-normal": (mup.init.xavier_normal_, nn.init.normal_),
    "xavier-uniform": (mup.init.xavier_uniform_, UNIT_UNIFORM),
    "kaiming-fan-in": (oracle.linear_kaiming, nn.init.normal_),
    "kaiming-fan-out": (lambda tensor: mup.init.kaiming_uniform_(tensor, mode="fan_out"), UNIT_UNIFORM),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_any_scheme_of_the_package_grows_as_our_init_std_does(scheme):
    """Whatever std a scheme gives at base width, `init_std` carries it to other widths as the package does."""
    draw, unit = SCHEMES[scheme]

    def stds(m):
        weights = oracle.twin(oracle.gpt(m)).named_parameters()
        return {name: oracle.drawn_std(weight, draw, unit) for name, weight in weights if weight.ndim >= 2}

    base = stds(1)
    plan = oracle.our_plan(oracle.gpt(4), oracle.TOKENS, "adamw", init_std=base)
    assert {name: plan.parameters[name].init_std for name in base} == pytest.approx(stds(4), rel=1e-9)


class Layers(nn.Module):
    """Layers beyond the shipped models': convolutions, an attention of torch's own, unequal growth."""

    def __init__(self, width: int, head: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.body = nn.Conv2d(width, 2 * width, 3)
        self.grouped = nn.Conv2d(2 * width, width, 3, groups=2)
        self.depthwise = nn.Conv2d(width, width, 3, groups=width)
        self.norm = nn.BatchNorm2d(width)
        self.attention = nn.MultiheadAttention(width, width // 4)
        self.up = nn.Linear(width, width * width // 8)  # fan-out grows as m², fan-in as m
        self.down = nn.Linear(width * width // 8, width)
        self.raw = nn.Parameter(torch.zeros(width, width))
        self.finite = nn.Linear(3, 5)
        self.head = head(width, 10)


@every_optimizer
def test_convolutions_attention_and_unequal_growth(optimizer):
    plan = plan_for(Layers, width=32, base_width=8, optimizer=optimizer, zero_readout=False)
    ours = Layers(32)
    initialize(ours, plan)
    model, base, delta = (Layers(width, mup.MuReadout).double() for width in (32, 8, 16))
    theirs = mup.set_base_shapes(model, base, delta=delta)
    make = {"adam": mup.MuAdam, "adamw": mup.MuAdamW, "sgd": mup.MuSGD}[optimizer]
    own = oracle.settings(ours, torch.optim.SGD(_without_names(parameter_groups(ours, plan, lr=0.5))))
    lrs = oracle.settings(theirs, make(theirs.parameters(), lr=0.5))
    assert {name: lr for name, (lr, _) in own.items()} == pytest.approx({name: lr for name, (lr, _) in lrs.items()})
    assert plan.parameters["up.weight"].m_out == plan.parameters["up.weight"].m_in ** 2 == 16
    for name, weight in theirs.named_parameters():
        if weight.ndim >= 2:
            std = oracle.drawn_std(weight, oracle.linear_kaiming, nn.init.normal_)
            assert plan.parameters[name].init_std == pytest.approx(std, rel=1e-9), name


def _without_names(groups):
    return [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups]


# One factor of one rule taken away: what must notice, and with which optimizer and model.
PERTURBED = {
    ("hidden", "init_std"): (oracle.assert_same_init, "adamw", oracle.gpt),
    ("hidden", "adam_lr"): (oracle.assert_same_settings, "adamw", oracle.gpt),
    ("hidden", "sgd_lr"): (None, "sgd", oracle.gpt),  # m_out/m_in = 1 when both grow alike
    ("output", "forward"): (oracle.assert_same_logits, "adamw", oracle.gpt),
    ("output", "sgd_lr"): (oracle.assert_same_settings, "sgd", oracle.gpt),
    ("input", "sgd_lr"): (oracle.assert_same_settings, "sgd", oracle.gpt),
    ("vector", "sgd_lr"): (oracle.assert_same_settings, "sgd", oracle.mlp),
}
# ε differs on purpose: test_oracle_differences.py.
COMPARED = {"init_std", "forward", "adam_lr", "sgd_lr"}


def test_every_factor_of_our_table_has_a_control():
    plain = rules.Power()
    fields = {
        (role, field)
        for role, rule in rules.MUP.items()
        for field, power in vars(rule).items()
        if power != plain and field in COMPARED
    }
    assert fields == set(PERTURBED)


@pytest.mark.parametrize(("role", "field"), PERTURBED)
def test_a_rule_without_one_of_its_factors_is_noticed(monkeypatch, role, field):
    compare, optimizer, section = PERTURBED[role, field]
    monkeypatch.setitem(rules.MUP, role, replace(rules.MUP[role], **{field: rules.Power()}))
    if compare is None:
        with pytest.raises(AssertionError):
            test_convolutions_attention_and_unequal_growth(optimizer)
        return
    compare(oracle.pair(section(1), oracle.hparams(optimizer)))
    with pytest.raises(AssertionError):
        compare(oracle.pair(section(4), oracle.hparams(optimizer)))
    if field != "init_std":
        with pytest.raises(AssertionError):
            oracle.assert_same_losses(oracle.pair(section(4), oracle.hparams(optimizer)))


@pytest.mark.parametrize("section", [lambda m: oracle.gpt(m, heads=2), oracle.mlp], ids=["gpt", "mlp"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_sp_is_equal_at_base_width_and_noticed_above(section, optimizer):
    comparisons = [oracle.assert_same_init, oracle.assert_same_settings, oracle.assert_same_logits,
                   oracle.assert_same_losses]  # fmt: skip
    for compare in comparisons:
        compare(oracle.pair(section(1), oracle.hparams(optimizer), "sp"))
        with pytest.raises(AssertionError):
            compare(oracle.pair(section(4), oracle.hparams(optimizer), "sp"))


def test_standard_attention_scale_is_noticed(monkeypatch):
    monkeypatch.setattr(rules, "attention_scale", lambda head_dim, base, **_: head_dim**-0.5)
    oracle.assert_same_logits(oracle.pair(oracle.gpt(4), oracle.hparams("adamw")))  # heads multiply: no difference
    with pytest.raises(AssertionError):
        oracle.assert_same_logits(oracle.pair(oracle.gpt(4, heads=2), oracle.hparams("adamw")))
