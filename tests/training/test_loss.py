"""Losses of one run and of a pack: the same numbers, and what does not count does not count."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mutransfer.config.models import Loss
from mutransfer.data.dataset import IGNORED
from mutransfer.training.loss import counted, inputs_of, loss_of, losses_of

LOSSES = {
    "plain": Loss(),
    "smoothed": Loss(label_smoothing=0.1),
    "ignoring": Loss(ignores=True),
    "both": Loss(label_smoothing=0.1, ignores=True),
}


def some_logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def some_targets(*shape: int, ignored: bool) -> torch.Tensor:
    targets = torch.randint(7, shape, generator=torch.Generator().manual_seed(1))
    if ignored:
        targets[..., ::2] = IGNORED
    return targets


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_a_packs_losses_are_those_of_each_run(name, train):
    loss, logits = LOSSES[name], some_logits(3, 2, 5, 7)
    targets = some_targets(3, 2, 5, ignored=loss.ignores)
    own = [
        float(loss_of(lambda x: x, loss, (one,), target, train=train))
        for one, target in zip(logits, targets, strict=True)
    ]
    assert losses_of(logits, targets, loss, train=train).tolist() == pytest.approx(own, rel=1e-12)


def test_smoothing_belongs_to_training():
    logits, targets = some_logits(4, 7), some_targets(4, ignored=False)
    plain = loss_of(lambda x: x, Loss(), (logits,), targets, train=True)
    smoothed = {
        train: loss_of(lambda x: x, Loss(label_smoothing=0.2), (logits,), targets, train=train)
        for train in (True, False)
    }
    assert float(smoothed[False]) == float(plain)
    uniform = -logits.log_softmax(-1).mean()
    assert float(smoothed[True]) == pytest.approx(float(0.8 * plain + 0.2 * uniform))


def test_what_is_ignored_changes_nothing():
    loss, logits, targets = Loss(ignores=True), some_logits(2, 6, 7), some_targets(2, 6, ignored=True)
    other = torch.where((targets == IGNORED)[..., None], logits + 3 * some_logits(2, 6, 7).flip(0), logits)
    first, second = (float(loss_of(lambda x: x, loss, (one,), targets, train=True)) for one in (logits, other))
    assert first == second
    assert counted((np.zeros((2, 6)), targets.numpy()), loss) == 6


def test_squared_error_and_returned_loss():
    outputs, targets = some_logits(3, 4, 2), some_logits(3, 4, 2) + 1
    loss = Loss(kind="mse")
    assert float(loss_of(lambda x: x, loss, (outputs[0],), targets[0], train=True)) == pytest.approx(1.0)
    assert losses_of(outputs, targets, loss, train=True).tolist() == pytest.approx([1.0] * 3)
    own = loss_of(lambda x, y: (x * y).sum(), Loss(kind="returned"), (outputs,), targets, train=True)
    assert float(own) == pytest.approx(float((outputs * targets).sum()))


def test_half_precision_is_summed_in_fp32():
    logits = torch.zeros(8, 300, dtype=torch.bfloat16)
    found = loss_of(lambda x: x, Loss(), (logits,), torch.zeros(8, dtype=torch.int64), train=True)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(math.log(300), rel=1e-6)


def test_several_inputs_are_a_tuple():
    one, two = np.zeros(2), np.ones(2)
    assert len(inputs_of(((one, two), one))) == 2
    assert len(inputs_of((one, two))) == 1
