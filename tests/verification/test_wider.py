""" "Wider is better", on curves that are known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mutransfer.verification.wider import WidthCurve, compare, read_curve, smooth


def curves(*offsets, noise=0.01, steps=100):
    rng = np.random.default_rng(0)
    fall = 3 * np.exp(-np.arange(steps) / 30)
    return [
        WidthCurve(16 * 2**index, fall + offset + rng.normal(0, noise, (3, steps)))
        for index, offset in enumerate(offsets)
    ]


def test_a_larger_size_below_the_smaller_is_better_and_one_above_is_not():
    first, second = compare(curves(0.0, -0.1, 0.0), warmup=10)
    assert (first.smaller, first.larger, second.larger) == (16, 32, 64)
    assert first.better
    assert first.share == 1
    assert first.difference == pytest.approx(-0.1, abs=0.03)
    assert not second.better
    assert second.share == 0


def test_equal_within_noise_is_as_good():
    (equal,) = compare(curves(0.0, 0.0), warmup=0)
    assert equal.share > 0.9
    (worse,) = compare(curves(0.0, 0.05), warmup=0)
    assert worse.share < 0.1


def test_steps_of_the_warmup_do_not_count():
    small, large = curves(0.0, -0.1)
    large.losses[:, :20] += 1
    assert compare([small, large], warmup=20)[0].share == 1
    assert compare([small, large], warmup=0)[0].share == pytest.approx(0.8)


def test_a_run_that_diverged_is_worse_from_there_on(tmp_path):
    lines = [{"step": step, "loss": 2.0} for step in range(10)] + [{"step": 10, "loss": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    diverged = read_curve(32, [tmp_path], 20)
    assert np.isinf(diverged.losses[0, 10:]).all()
    assert diverged.losses[0, :10] == pytest.approx(2.0)
    (found,) = compare([WidthCurve(16, np.full((1, 20), 2.0)), diverged], warmup=0)
    assert found.share == pytest.approx(0.5)
    assert read_curve(32, [tmp_path / "none"], 20) is None


def test_smoothing_keeps_a_constant_and_lags_a_jump():
    assert smooth(np.full(5, 2.0)) == pytest.approx(np.full(5, 2.0))
    assert smooth(np.array([0.0, 1.0, 1.0])) == pytest.approx([0.0, 0.1, 0.19])
