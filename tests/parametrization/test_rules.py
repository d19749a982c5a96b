"""The rule table at power-of-two sizes, where every number can be read off and is exact."""

from __future__ import annotations

import pytest

from mutransfer.parametrization.rules import MUP, ROLES, RULES, SP, attention_scale, multipliers

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


@pytest.mark.parametrize("parametrization", RULES)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("role", ROLES)
def test_base_width_changes_nothing(role, optimizer, parametrization):
    numbers = multipliers(role, 1, 1, optimizer=optimizer, parametrization=parametrization)
    assert numbers == type(numbers)(1, 1, 1, 1, 1)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("role", ROLES)
def test_lr_times_weight_decay_is_fixed(role, optimizer):
    numbers = multipliers(role, 8, 32, optimizer=optimizer)
    assert numbers.lr * numbers.weight_decay == 1


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_sp_scales_init_by_fan_in_and_nothing_else(role, optimizer):
    numbers = multipliers(role, 4, 16, optimizer=optimizer, parametrization="sp")
    assert numbers.init_std == (1 / 2 if role in ("hidden", "output") else 1)
    assert (numbers.forward, numbers.lr, numbers.weight_decay, numbers.eps) == (1, 1, 1, 1)


def test_every_role_has_a_rule_in_both():
    assert set(MUP) == set(SP) == set(ROLES)


def test_attention_scale():
    assert attention_scale(16, 16) == 1 / 4  # 1/√d at the base head size
    assert attention_scale(64, 16) == 1 / 16  # √16/64: falls as 1/d
    assert attention_scale(64, 16, parametrization="sp") == 1 / 8  # 1/√64
