"""From (plan, hparams) to numbers: what stays fixed, at powers of two, where it is exact."""

from __future__ import annotations

from itertools import product

import pytest

from mutransfer.config.hparams import Hparams
from mutransfer.parametrization.plan import ModuleNames, ParameterShape, make_plan
from mutransfer.parametrization.rules import ROLES, DepthScaling, Options
from mutransfer.parametrization.settings import settings

OPTIMIZERS = {"adamw": {}, "sgd": {}, "muon": {"adam_lr": 0.25}}
# Every rule that changes an lr, alone and together.
RULES = {
    "none": Options(),
    "batch size and horizon": Options(lr_factor=0.125),
    "depth": Options(depth=DepthScaling(4.0, 0.5)),
    "lookup tables": Options(lookup_exponent=0.5),
    "all": Options(lr_factor=4.0, depth=DepthScaling(16.0, 0.75), lookup_exponent=-0.5),
}


def plan(optimizer, parametrization, options):
    """A parameter of every role, with m_in 4 and m_out 16 where its role has them; a square and a tall matrix."""
    shapes = [
        ParameterShape(
            name=f"layer.{role}.weight", shape=(256, 64), role=role, base_init_std=0.5, decays=True,
            fan_in=64, base_fan_in=16 if role in ("hidden", "output") else 64, fan_out=256,
            base_fan_out=16 if role in ("input", "hidden", "vector") else 256, multiplies=role != "vector",
            in_branch=role == "hidden",
        )
        for role in ROLES
    ]  # fmt: skip
    table = ParameterShape("table.weight", (8, 64), "input", 8, 64, 8, 16, 1.0, decays=True, multiplies=False)
    return make_plan([*shapes, table], width=64, base_width=16, optimizer=optimizer, parametrization=parametrization,
                     options=options, modules=ModuleNames(blocks=("layer",)))  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer", "parametrization", "rule"), list(product(OPTIMIZERS, ("mup", "sp", "ntk"), RULES))
)
def test_lr_times_weight_decay_stays_what_it_is_at_base_size(optimizer, parametrization, rule):
    made = plan(optimizer, parametrization, RULES[rule])
    hparams = Hparams(optimizer=optimizer, lr=0.5, weight_decay=0.125, embedding_lr=2.0, **OPTIMIZERS[optimizer])
    base, own = settings(made, hparams, scaled=False).optimizer, settings(made, hparams).optimizer
    assert {name: one.lr * one.weight_decay for name, one in own.items()} == pytest.approx(
        {name: one.lr * one.weight_decay for name, one in base.items()}, rel=1e-15
    )
    if RULES[rule].lr_factor != 1:
        assert any(one.lr != base[name].lr for name, one in own.items())


def test_independent_decay_takes_the_lr_out():
    made = plan("adamw", "mup", Options(weight_decay="independent", lr_factor=0.25))
    own = settings(made, Hparams(lr=0.5, weight_decay=0.125)).optimizer
    assert {one.lr * one.weight_decay for one in own.values()} == {0.125}


def test_a_rule_that_leaves_the_decay_alone_is_noticed(monkeypatch):
    from mutransfer.parametrization import rules

    whole = rules.multipliers

    def broken(*given, lr_factor, **named):
        found = whole(*given, lr_factor=1.0, **named)
        return rules.Multipliers(found.init_std, found.forward, found.lr * lr_factor, found.weight_decay, found.eps)

    monkeypatch.setattr(rules, "multipliers", broken)
    with pytest.raises(AssertionError):
        test_lr_times_weight_decay_stays_what_it_is_at_base_size("adamw", "mup", "batch size and horizon")
