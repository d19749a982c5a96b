"""Best, ties within seed noise, edges, and outcomes that gave nothing."""

from __future__ import annotations

import pytest

from mutransfer.sweep.selection import select
from mutransfer.sweep.study import TrialRecord
from tests.conftest import build


def record(number, value, lr=0.01, outcome="completed"):
    return TrialRecord(number, {"lr": lr, "temperature": 1.0}, outcome, value)


def test_best_first_and_lower_number_on_equal_loss(gpt):
    found = select(
        build(gpt), [record(0, 2.0), record(1, 1.0), record(2, 1.0), record(3, None, outcome="diverged")], {}
    )
    assert found.best.number == 1
    assert [one.number for one in found.ranking] == [1, 2, 0]
    assert found.median.number == 2
    assert found.ties == (2,)
    assert found.seed_noise is None


def test_nothing_completed(gpt):
    assert select(build(gpt), [record(0, None, outcome="diverged")], {}) is None


def test_ties_are_within_two_standard_deviations_of_a_difference(gpt):
    records = [record(0, 1.0), record(1, 1.28), record(2, 1.29)]
    found = select(build(gpt), records, {"0": {"1": 0.9, "2": 1.1}})
    assert found.seed_noise == pytest.approx(0.1)  # of 1.0, 0.9, 1.1; 2·√2·0.1 = 0.283
    assert found.ties == (1,)


def test_repeats_of_another_trial_do_not_count(gpt):
    assert select(build(gpt), [record(0, 1.0), record(1, 2.0)], {"1": {"1": 0.9}}).seed_noise is None


def test_edge_is_a_warning(gpt):
    (warning,) = select(build(gpt), [record(0, 1.0, lr=0.099)], {}).warnings
    assert "best lr (0.099) lies within 5% of the upper end" in warning
    assert not select(build(gpt), [record(0, 1.0, lr=0.01)], {}).warnings


def test_failed_trials_and_repeats_are_warnings(gpt):
    records = [record(0, 1.0), record(1, None, outcome="crashed"), record(2, None, outcome="out_of_memory")]
    crashed, repeat = select(build(gpt), records, {"0": {"1": None}}).warnings
    assert "2 of 3 trials gave no result (crashed, out of memory)" in crashed
    assert "gave no result with seed 1" in repeat
