"""The count of FLOPs against torch's own counter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mutransfer.config.data import ClassSpec, DigitsSection, PairSpec, TranslationSection
from mutransfer.models import build_model, plan_of
from mutransfer.parametrization.building import meta_construction
from mutransfer.transfer.cost import estimate
from tests.conftest import build


def counted(config):
    """What torch counts of one step on the meta device, where attention runs as plain products."""
    spec, batch = config.data.spec, config.training.batch_size
    with meta_construction():
        model = build_model(config.model, spec)
        if spec.consumed_as == "token pairs":
            lengths = (spec.source_len, spec.target_len)
            inputs = tuple(torch.zeros(batch, length, dtype=torch.long) for length in lengths)
            targets = torch.zeros(batch * spec.target_len, dtype=torch.long)
        elif spec.consumed_as == "tokens":
            inputs = torch.zeros(batch, spec.seq_len, dtype=torch.long)
            targets = torch.zeros(batch * spec.seq_len, dtype=torch.long)
        else:
            # A gradient with respect to the input, so that the first layer's backward pass counts in full.
            inputs = torch.zeros(batch, *spec.shape, requires_grad=True)
            targets = torch.zeros(batch, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        outputs = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
        F.cross_entropy(outputs.flatten(0, -2), targets).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "changes",
    [{}, {"model__width": 256}, {"model__depth": 3, "data__seq_len": 64}, {"model__tied_embeddings": True},
     {"model__mlp_ratio": 2, "training__batch_size": 2}, {"model__mlp": "swiglu", "model__norm": "rmsnorm"},
     {"model__positions": "relative"},
     {"model__kv_heads": 1, "model__head_dim": None, "model__heads": 2},
     {"model__width": 64, "model__kv_group": 2},
     {"model__qk_norm": True, "model__norm_gain": True}],
)  # fmt: skip
def test_gpt_flops_are_torchs(gpt, changes):
    config = build(gpt, **changes)
    assert estimate(config, plan_of(config)).flops_per_step == counted(config)


@pytest.mark.parametrize(
    "changes", [{}, {"model__width": 64}, {"model__depth": 3, "data__seq_len": 20}, {"model__tied_embeddings": True}]
)
def test_seq2seq_flops_are_torchs(pairs, changes):
    config = build(pairs, **changes)
    assert estimate(config, plan_of(config)).flops_per_step == counted(config)


def test_sequences_of_two_lengths_cost_what_torch_counts(pairs, monkeypatch):
    spec = PairSpec(source_vocab=40, target_vocab=30, source_len=9, target_len=5)
    monkeypatch.setattr(TranslationSection, "spec", spec)
    config = build(pairs, model__depth=2)
    assert estimate(config, plan_of(config)).flops_per_step == counted(config)


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((1, 8, 8), {}),
        ((1, 8, 8), {"width": 16, "blocks": [2, 1, 1], "norm": "group"}),
        ((3, 96, 70), {"blocks": [1, 2]}),
    ],
)
def test_resnet_flops_are_torchs(mlp, monkeypatch, shape, changes):
    """Small images and large ones, whose stem is another."""
    monkeypatch.setattr(DigitsSection, "spec", ClassSpec(shape=shape, classes=10))
    config = build(mlp, model={"kind": "resnet", "width": 8, "base_width": 8, "blocks": [1, 1], **changes})
    assert estimate(config, plan_of(config)).flops_per_step == counted(config)


def test_mlp_flops_are_torchs(mlp):
    config = build(mlp, model__width=64)
    assert estimate(config, plan_of(config)).flops_per_step == counted(config)


def test_state_is_four_copies_for_adam_and_three_for_sgd(gpt):
    adam, sgd = build(gpt), build(gpt, hparams__optimizer="sgd")
    count = plan_of(adam).parameter_count
    assert estimate(adam, plan_of(adam)).state_bytes == 16 * count
    assert estimate(sgd, plan_of(sgd)).state_bytes == 12 * count
