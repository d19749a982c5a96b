"""The coordinate check over depth: CompleteP's rules pass, their absence fails, and α = 1/2 leaves the blocks lazy."""

from __future__ import annotations

import pytest

from mutransfer.verification import check_config
from tests.conftest import build

DEPTHS = (2, 4, 8, 16, 32)


def check(gpt, rules, seeds=2):
    config = build(gpt, model__depth=2, training__batch_size=2, rules=rules, hparams={"lr": 0.004})
    return check_config(config, axis="depth", sizes=DEPTHS, seeds=seeds, control=False)


def slope(result, module, quantity):
    return getattr(next(one for one in result.modules if one.module == module), quantity).value


@pytest.mark.parametrize(("alpha", "lazy"), [(1.0, 0.0), (0.5, -0.5)])
def test_completep_passes_over_depth(gpt, alpha, lazy):
    result = check(gpt, {"depth": {"base_depth": 2, "alpha": alpha}})
    assert result.passed, result.sentence
    assert slope(result, "blocks.last", "change") == pytest.approx(0, abs=0.15)
    assert slope(result, "blocks.first.up", "update") == pytest.approx(lazy, abs=0.15)


def test_without_a_rule_the_residual_stream_moves_more_the_deeper(gpt):
    result = check(gpt, {}, seeds=1)
    assert not result.passed
    assert slope(result, "blocks.last", "change") > 0.5
    assert "depth" in result.hint
