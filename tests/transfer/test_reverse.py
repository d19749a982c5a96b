"""Reverse µTransfer: the narrow model blows up where the wide sp model does, and the narrow sp model does not."""

from __future__ import annotations

import pytest

from mutransfer.errors import ConfigError, UsageError
from mutransfer.models import plan_of
from mutransfer.training.loop import Hooks, fit
from mutransfer.training.losses import MetricsFile
from mutransfer.transfer.reverse import reverse_config, write_reverse
from tests.conftest import build


def worst_rise(config):
    """The highest training loss over the first one: above 1 where training blows up."""
    losses = []
    metrics = MetricsFile(None)
    metrics.add = lambda record: losses.append(record.get("loss"))
    fit(config, metrics, Hooks())
    trained = [loss for loss in losses if loss is not None]
    return max(trained) / trained[0]


def test_the_narrow_model_shows_the_wide_ones_instability(mlp):
    hparams = {"optimizer": "adamw", "lr": 0.03, "warmup": 0.0, "schedule": "constant"}
    data = {**mlp, "hparams": hparams, "training": {**mlp["training"], "divergence_factor": 1e9}}
    narrow = build(data, parametrization="sp", model__width=32, model__base_width=32)
    wide = build(data, parametrization="sp", model__width=1024, model__base_width=32)
    reversed_ = reverse_config(narrow, 1024)
    assert (reversed_.model.width, reversed_.model.base_width, reversed_.parametrization) == (32, 1024, "mup")
    assert worst_rise(wide) > 2
    assert worst_rise(reversed_) > 2
    assert worst_rise(narrow) < 1.5  # the control: the narrow model by itself is calm


def test_it_is_the_wide_sp_model_at_the_wide_width(gpt):
    """The plan at the base width is plain; below it the lr of hidden weights rises by N / n."""
    plan = plan_of(reverse_config(build(gpt), 64))
    assert plan.parameters["blocks.0.up.weight"].lr == 4
    assert plan.parameters["readout.weight"].forward == 4


def test_refusals(gpt, tmp_path):
    config = build(gpt)
    with pytest.raises(UsageError, match="--width 16: must be wider"):
        reverse_config(config, 16)
    with pytest.raises(ConfigError, match=r"--width 100: model\.head_dim: 8 does not divide base_width 100"):
        reverse_config(config, 100)
    path = tmp_path / "narrow.yaml"
    write_reverse(reverse_config(config, 64), path)
    before = path.read_text()
    write_reverse(reverse_config(config, 64), path)
    with pytest.raises(UsageError, match="is there already and differs"):
        write_reverse(reverse_config(config, 128), path)
    assert path.read_text() == before


@pytest.mark.parametrize("changes", [{"parametrization": "sp"}, {}])
def test_reverse_is_for_training_in_mup(gpt, changes):
    with pytest.raises(ValueError, match="is for a mup model"):
        build(gpt, reverse=True, **changes)  # gpt has a search section
