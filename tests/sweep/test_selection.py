"""Best, ties within seed noise, edges, and outcomes that gave nothing."""

from __future__ import annotations

import math

import pytest

from mutransfer.sweep.confirmation import confirmation
from mutransfer.sweep.record import TrialRecord
from mutransfer.sweep.selection import select
from tests.conftest import build

DIVERGED = {"outcome": "diverged", "error": None}


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


def confirming(gpt, top, seeds=2):
    return build(gpt, search__confirm={"top": top, "seeds": seeds})


def test_ties_are_within_two_standard_deviations_of_a_difference(gpt):
    records = [record(0, 1.0), record(1, 1.28), record(2, 1.29)]
    found = select(confirming(gpt, 1), records, {"0": {"1": 0.9, "2": 1.1}})
    assert found.seed_noise == pytest.approx(0.1)  # of 1.0, 0.9, 1.1; 2·√2·0.1 = 0.283
    assert found.ties == (1,)


def test_repeats_of_another_trial_do_not_count(gpt):
    found = select(confirming(gpt, 1, 1), [record(0, 1.0), record(1, 2.0)], {"1": {"1": 0.9}})
    assert (found.best.number, found.seed_noise) == (0, None)


def test_the_best_mean_over_seeds_wins(gpt):
    """Three trials with three runs each; variances 0.01, 0.04 and 0.01, whose mean is 0.02."""
    records = [record(0, 1.0), record(1, 1.1), record(2, 1.2), record(3, 1.3), record(4, 1.6)]
    repeats = {"0": {"1": 1.2, "2": 1.1}, "1": {"1": 0.7, "2": 0.9}, "2": {"1": 1.3, "2": 1.4}}
    found = select(confirming(gpt, 3), records, repeats)
    assert [one.number for one in found.ranking] == [1, 0, 2, 3, 4]
    assert found.best.value == 1.1
    assert found.means == pytest.approx({0: 1.1, 1: 0.9, 2: 1.3})
    assert found.runs == 3
    assert found.seed_noise == pytest.approx(math.sqrt(0.02))
    # The squares of the two-way table's residuals sum to 0.11333. Means tie within 2·0.2380/√3 = 0.275, single runs
    # within 2·0.2380 = 0.476.
    assert found.difference_noise == pytest.approx(math.sqrt(2 * 0.34 / 3 / 4))
    assert found.ties == (0, 3)


def test_what_a_seed_does_to_all_trials_alike_makes_no_tie(gpt):
    """The means differ by 0.1 and the runs of either by 1 from seed to seed."""
    records = [record(0, 1.0), record(1, 1.1), record(2, 1.2)]
    alike = {"0": {"1": 2.0, "2": 3.0}, "1": {"1": 2.1, "2": 3.1}}
    found = select(confirming(gpt, 2), records, alike)
    assert found.seed_noise == pytest.approx(1.0)
    assert found.ties == ()
    turned = {**alike, "1": {"1": 3.1, "2": 2.1}}  # the same runs with the seeds exchanged
    assert select(confirming(gpt, 2), records, turned).ties == (1, 2)
    assert select(confirming(gpt, 1), records, alike).ties == (1, 2)  # one trial alone cannot know


def test_a_trial_that_fails_with_another_seed_cannot_win(gpt):
    records = [record(0, 1.0), record(1, 1.5), record(2, 2.0)]
    repeats = {"0": {"1": 0.5, "2": DIVERGED}, "1": {"1": 1.6, "2": 1.4}, "2": {"1": 2.1, "2": 1.9}}
    found = select(confirming(gpt, 2), records, repeats)
    assert [one.number for one in found.ranking] == [1, 2, 0]
    assert found.means == pytest.approx({1: 1.5, 2: 2.0})
    assert 0 not in found.ties
    (warning,) = found.warnings
    assert "trial 0 was among the best, but gave no result with seed 2" in warning
    assert select(confirming(gpt, 3), records[:1], repeats) is None


def test_until_every_run_is_there_no_mean_is_compared_with_a_single_run(gpt):
    records = [record(0, 1.0), record(1, 1.1)]
    half = select(confirming(gpt, 2, 1), records, {"0": {"1": 3.0}})
    assert (half.best.number, half.means, half.seed_noise, half.ties) == (0, {}, None, ())
    assert select(confirming(gpt, 2, 1), records, {"0": {"1": 3.0}, "1": {"1": 1.1}}).best.number == 1


def test_missing_runs_are_those_of_the_trials_in_line(gpt):
    config = build(gpt, search__confirm={"top": 2, "seeds": 2}, training__seed=5)
    ranking = [record(4, 1.0), record(7, 1.1), record(2, 1.2)]

    def missing(repeats):
        return [(one.number, repeat) for one, repeat in confirmation(config, ranking, repeats).missing]

    assert missing({}) == [(4, 1), (4, 2), (7, 1), (7, 2)]
    assert missing({"4": {"6": 1.0, "7": 1.0}, "7": {"7": 1.0}}) == [(7, 1)]
    # Trial 4 is out: 2 takes its place, and 4's other seed is trained still.
    assert missing({"4": {"6": DIVERGED}, "7": {"6": 1.0, "7": 1.0}}) == [(4, 2), (2, 1), (2, 2)]


def test_edge_is_a_warning(gpt):
    (warning,) = select(build(gpt), [record(0, 1.0, lr=0.099)], {}).warnings
    assert "best lr (0.099) lies within 5% of the upper end" in warning
    assert not select(build(gpt), [record(0, 1.0, lr=0.01)], {}).warnings


def test_failed_trials_are_a_warning(gpt):
    records = [record(0, 1.0), record(1, None, outcome="crashed"), record(2, None, outcome="out_of_memory")]
    (crashed,) = select(build(gpt), records, {}).warnings
    assert "2 of 3 trials gave no result (crashed, out of memory)" in crashed
