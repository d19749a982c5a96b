"""The loop: divergence, clipping, precision, what it logs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from mutransfer.training.learner import Learner
from mutransfer.training.loop import Hooks, fit
from mutransfer.training.losses import MetricsFile, Monitor, Pending, read_metrics
from mutransfer.training.optimizers import set_lr
from tests.conftest import build


def test_learns(gpt):
    result = fit(build(gpt, training__steps=60), MetricsFile(None), Hooks())
    assert result.outcome == "completed"
    assert result.validation_loss < 0.75 * math.log(256)
    untrained = fit(build(gpt, training__steps=60, hparams__lr=1e-9), MetricsFile(None), Hooks())
    assert untrained.validation_loss == pytest.approx(math.log(256), abs=1e-3)  # zero readout: uniform


def test_metrics_have_every_step_with_its_lr(gpt, tmp_path):
    config = build(gpt, training__eval_every=5, hparams={"lr": 0.5, "schedule": "linear", "warmup": 0.25})
    fit(config, MetricsFile(tmp_path / "metrics.jsonl"), Hooks())
    records = list(read_metrics(tmp_path / "metrics.jsonl"))
    steps = [record for record in records if "loss" in record]
    assert [record["step"] for record in steps] == list(range(12))
    assert [record["lr"] for record in steps[:3]] == pytest.approx([0.5 / 3, 1 / 3, 0.5])
    assert [record["step"] for record in records if "validation_loss" in record] == [4, 9, 11]


def test_divergence_stops_the_run_and_is_no_error(gpt, tmp_path):
    config = build(gpt, training__steps=300, hparams={"optimizer": "sgd", "lr": 1e6, "warmup": 0.0})
    result = fit(config, MetricsFile(tmp_path / "metrics.jsonl"), Hooks())
    assert result.outcome == "diverged"
    assert result.steps < 30
    assert result.validation_loss is None
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == result.steps
    for line in lines:
        json.loads(line, parse_constant=pytest.fail)  # NaN and Infinity are no JSON


@pytest.mark.parametrize(
    ("values", "diverged_at"),
    [
        ([2.0] * 50, None),
        ([2.0, float("nan"), 2.0], 2),
        ([2.0, float("inf")], 2),
        ([2.0, 30.0, 2.0, 2.0], None),  # one spike is forgiven
        ([2.0] + [9.0] * 20, 10),  # the smoothed loss passes 3 × the first
    ],
)
def test_monitor(values, diverged_at):
    for interval in (1, 7):
        monitor, pending = Monitor(3.0), Pending(interval)
        other = Monitor(3.0)
        for value in values:
            pending.add(torch.tensor([value, 1.0]))
            if pending.due:
                for one, losses in zip((monitor, other), pending.fetch(), strict=True):
                    one.add(losses)
        for one, losses in zip((monitor, other), pending.fetch() or [[], []], strict=True):
            one.add(losses)
        assert monitor.diverged == (diverged_at is not None)
        assert len(monitor.losses) == (diverged_at or len(values))
        assert other.losses == [1.0] * len(values)
        assert not other.diverged


def test_schedule_keeps_the_ratios_of_groups(gpt):
    learner = Learner(build(gpt, model__width=64), torch.device("cpu"))
    set_lr(learner.optimizer, 0.5)
    assert {group["lr"] for group in learner.optimizer.param_groups} == {0.005, 0.005 / 4}


def test_clip_bounds_the_first_sgd_update(gpt):
    hparams = {"optimizer": "sgd", "lr": 1.0, "momentum": 0.0, "schedule": "constant", "warmup": 0.0, "clip": 1e-3}
    learner = Learner(build(gpt, hparams=hparams), torch.device("cpu"))
    before = [parameter.clone() for parameter in learner.model.parameters()]
    tokens = np.arange(4 * 16).reshape(4, 16)
    learner.train_step(0, (tokens, tokens))
    moved = sum(((new - old) ** 2).sum() for new, old in zip(learner.model.parameters(), before, strict=True)).sqrt()
    assert moved.item() == pytest.approx(1e-3, rel=1e-3)


def test_bf16_runs_and_is_close(gpt):
    full = fit(build(gpt), MetricsFile(None), Hooks())
    half = fit(build(gpt, training__precision="bf16"), MetricsFile(None), Hooks())
    assert half.validation_loss != full.validation_loss
    assert half.validation_loss == pytest.approx(full.validation_loss, rel=0.05)


def test_evaluation_is_a_mean_over_targets(mlp):
    """Unequal batches count by their size."""
    learner = Learner(build(mlp, model__zero_readout=False), torch.device("cpu"))
    x = np.random.default_rng(0).normal(size=(10, 1, 8, 8)).astype(np.float32)
    y = np.arange(10)
    whole = learner.evaluate([(x, y)])
    parts = learner.evaluate([(x[:7], y[:7]), (x[7:], y[7:])])
    assert parts == pytest.approx(whole, rel=1e-5)


def test_torn_metrics_lines_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 1.0}\n{"step": 1, "lo')
    assert list(read_metrics(path)) == [{"step": 0, "loss": 1.0}]


def test_blow_up_in_the_last_update_is_a_divergence(gpt, monkeypatch):
    """Every training loss is finite, the validation loss is not."""
    monkeypatch.setattr(Learner, "evaluate", lambda self, batches: math.nan)
    result = fit(build(gpt), MetricsFile(None), Hooks())
    assert (result.outcome, result.validation_loss) == ("diverged", None)
