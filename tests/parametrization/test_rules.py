"""The rule table at power-of-two sizes, where every number can be read off and is exact."""

from __future__ import annotations

import pytest

from mutransfer.parametrization.rules import (
    MUP,
    NTK,
    ROLES,
    RULES,
    SP,
    DepthScaling,
    attention_scale,
    batch_lr,
    horizon_lr,
    multipliers,
    rule_of,
)

# role: (m_in, m_out) → init std, forward, Adam lr, SGD lr, Adam ε (TP-V Table 8; ε as the gradient)
EXPECTED = {
    "input": ((1, 16), 1, 1, 1, 16, 1 / 16),
    "hidden": ((4, 16), 1 / 2, 1, 1 / 4, 4, 1 / 16),
    "output": ((16, 1), 1, 1 / 16, 1, 16, 1 / 16),
    "vector": ((1, 16), 1, 1, 1, 16, 1 / 16),
    "scalar": ((1, 1), 1, 1, 1, 1, 1),
}


@pytest.mark.parametrize("role", ROLES)
def test_mup_table(role):
    (m_in, m_out), init_std, forward, adam_lr, sgd_lr, eps = EXPECTED[role]
    adam = multipliers(role, m_in, m_out, optimizer="adam")
    sgd = multipliers(role, m_in, m_out, optimizer="sgd")
    assert (adam.init_std, adam.forward, adam.lr, adam.eps) == (init_std, forward, adam_lr, eps)
    assert (sgd.init_std, sgd.forward, sgd.lr, sgd.eps) == (init_std, forward, sgd_lr, 1)


@pytest.mark.parametrize("parametrization", [*RULES, "interpolated"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
@pytest.mark.parametrize("role", ROLES)
def test_base_width_changes_nothing(role, optimizer, parametrization):
    numbers = multipliers(role, 1, 1, optimizer=optimizer, rule=rule_of(parametrization, role))
    assert numbers == type(numbers)(1, 1, 1, 1, 1)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("role", ROLES)
def test_lr_times_weight_decay_is_fixed(role, optimizer):
    numbers = multipliers(role, 8, 32, optimizer=optimizer)
    assert numbers.lr * numbers.weight_decay == 1


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_sp_scales_init_by_fan_in_and_nothing_else(role, optimizer):
    numbers = multipliers(role, 4, 16, optimizer=optimizer, rule=SP[role])
    assert numbers.init_std == (1 / 2 if role in ("hidden", "output") else 1)
    assert (numbers.forward, numbers.lr, numbers.weight_decay, numbers.eps) == (1, 1, 1, 1)


def test_every_role_has_a_rule_in_each():
    assert set(MUP) == set(SP) == set(NTK) == set(ROLES)


def test_attention_scale():
    assert attention_scale(16, 16) == 1 / 4  # 1/√d at the base head size
    assert attention_scale(64, 16) == 1 / 16  # √16/64: falls as 1/d
    assert attention_scale(64, 16, parametrization="sp") == 1 / 8  # 1/√64
    assert attention_scale(64, 16, parametrization="ntk") == 1 / 8
    assert attention_scale(64, 16, parametrization="interpolated", init=0.0) == 1 / 8
    assert attention_scale(64, 16, parametrization="interpolated", init=1.0) == 1 / 16


def effects(rule, optimizer):
    """What no moving of a multiplier into init and lr changes: the size of x·W at init, of its update, ε's share."""
    numbers = multipliers("hidden", 16, 16, optimizer=optimizer, rule=rule)
    moves = numbers.forward ** (2 if optimizer == "sgd" else 1)
    eps = numbers.eps / numbers.forward if optimizer == "adam" else 1.0
    return numbers.forward * numbers.init_std, moves * numbers.lr, eps


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_corners_of_the_interpolation_are_sp_and_mup(role, optimizer):
    for share, table in ((0.0, SP), (1.0, MUP)):
        corner = rule_of("interpolated", role, init=share, lr=share)
        assert corner.forward == type(corner.forward)()
        assert effects(corner, optimizer) == pytest.approx(effects(table[role], optimizer), rel=1e-12)
    init_only = rule_of("interpolated", role, init=1.0, lr=0.0)
    assert effects(init_only, optimizer)[0] == pytest.approx(effects(MUP[role], optimizer)[0], rel=1e-12)
    assert effects(init_only, optimizer)[1:] == pytest.approx(effects(SP[role], optimizer)[1:], rel=1e-12)


def test_half_way_is_the_geometric_mean():
    numbers = multipliers("hidden", 16, 16, optimizer="adam", rule=rule_of("interpolated", "hidden", init=0.5, lr=0.5))
    assert (numbers.init_std, numbers.lr, numbers.eps) == pytest.approx((1 / 4, 1 / 4, 1 / 4))


def test_ntk_moves_features_less_the_wider():
    """A hidden layer's output moves by forward × lr × m_in: 1/√m, where µP has 1."""
    for table, expected in ((NTK, 1 / 4), (MUP, 1)):
        numbers = multipliers("hidden", 16, 16, optimizer="adam", rule=table["hidden"])
        assert numbers.forward * numbers.lr * 16 == expected


def test_muon_follows_the_shape():
    assert multipliers("hidden", 4, 16, optimizer="muon").lr == 2
    assert multipliers("hidden", 16, 16, optimizer="muon").lr == 1
    assert multipliers("hidden", 4, 16, optimizer="muon", rule=SP["hidden"]).lr == 1


@pytest.mark.parametrize(
    ("alpha", "branch", "adam", "sgd", "eps"), [(1.0, 1 / 16, 1, 16, 1 / 16), (0.5, 1 / 4, 1 / 4, 1, 1 / 4)]
)
def test_depth_rule(alpha, branch, adam, sgd, eps):
    """CompleteP Table 1 at 16 times the base depth."""
    depth = DepthScaling(16, alpha)
    assert (depth.branch, depth.lr("adam"), depth.lr("sgd"), depth.eps) == (branch, adam, sgd, eps)
    inside = multipliers("hidden", 4, 4, optimizer="adam", depth=depth)
    outside = multipliers("hidden", 4, 4, optimizer="adam")
    assert (inside.lr, inside.eps) == (outside.lr * adam, outside.eps * eps)
    assert inside.lr * inside.weight_decay == 1
    assert inside.init_std == outside.init_std


def test_lookup_tables_may_have_an_exponent_of_their_own():
    assert multipliers("input", 1, 16, optimizer="adam", lookup_exponent=0.5).lr == 4
    assert multipliers("input", 1, 16, optimizer="sgd", lookup_exponent=0.5).lr == 16  # a rule for Adam


def test_batch_size_and_horizon():
    assert (batch_lr(4, "adam"), batch_lr(4, "muon"), batch_lr(4, "sgd"), batch_lr(4, "sgd", 0.5)) == (2, 2, 4, 2)
    assert horizon_lr(1) == 1
    assert horizon_lr(8) == pytest.approx(8**-0.32)
