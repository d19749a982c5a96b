"""Schedules at exact values."""

from __future__ import annotations

import math

import pytest

from mutransfer.config.hparams import Hparams
from mutransfer.training.schedules import Schedule


def factors(steps, **fields):
    hparams = Hparams(**fields)
    return [Schedule.of(hparams, steps).factor(step) for step in range(steps)]


def test_warmup_reaches_the_peak_on_its_last_step():
    assert factors(10, schedule="constant", warmup=0.4) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]


def test_no_warmup():
    assert factors(3, schedule="constant", warmup=0.0) == [1, 1, 1]


def test_linear():
    assert factors(8, schedule="linear", warmup=0.0, final_lr=0.0) == [1 - k / 8 for k in range(8)]
    assert factors(8, schedule="linear", warmup=0.5, final_lr=0.5)[4:] == [1, 0.875, 0.75, 0.625]


def test_cosine():
    found = factors(8, schedule="cosine", warmup=0.0, final_lr=0.0)
    assert found == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)])
    assert factors(8, schedule="cosine", warmup=0.0, final_lr=0.5)[4] == pytest.approx(0.75)
    assert factors(8, schedule="cosine", warmup=0.0)[4] == pytest.approx(0.55)  # final_lr 0.1 when left out


def test_inverse_sqrt():
    assert factors(16, schedule="inverse_sqrt", warmup=0.25)[3::4] == [1, math.sqrt(1 / 2), math.sqrt(1 / 3), 0.5]
    assert factors(16, schedule="inverse_sqrt", warmup=0.0)[3] == 0.5


def test_step():
    assert factors(10, schedule="step", warmup=0.0) == pytest.approx([1] * 5 + [0.1] * 3 + [0.01] * 2)
    halves = factors(4, schedule="step", warmup=0.0, milestones=[0.25, 0.75], step_factor=0.5)
    assert halves == [1, 0.5, 0.5, 0.25]
