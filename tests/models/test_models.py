"""What single models promise beyond the contract (test_contract.py), and that no hparam is dead."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mutransfer.config.hparams import OPTIMIZER_FIELDS, SCHEDULE_FIELDS, Hparams
from mutransfer.models import build_model
from mutransfer.models.gpt import rotate
from mutransfer.training.learner import Learner
from mutransfer.training.loop import Hooks, fit
from mutransfer.training.metrics import MetricsFile
from tests.conftest import build

HPARAM_CHANGES = {
    "optimizer": {"optimizer": "sgd"},
    "lr": {"lr": 0.02},
    "adam_lr": {"adam_lr": 0.02},
    "embedding_lr": {"embedding_lr": 4.0},
    "norm_gain_lr": {"norm_gain_lr": 4.0},
    "bias_lr": {"bias_lr": 4.0},
    "init_scale": {"init_scale": 2.0},
    "temperature": {"temperature": 2.0},
    "attention_temperature": {"attention_temperature": 0.125},
    "embedding_scale": {"embedding_scale": 2.0},
    "position_scale": {"position_scale": 2.0},
    "weight_decay": {"weight_decay": 1.0},
    "beta1": {"beta1": 0.5},
    "beta2": {"beta2": 0.5},
    "eps": {"eps": 1e-2},
    "momentum": {"momentum": 0.5},
    "clip": {"clip": 0.01},
    "schedule": {"schedule": "linear"},
    "warmup": {"warmup": 0.5},
    "final_lr": {"final_lr": 0.9},
    "milestones": {"milestones": [0.25]},
    "step_factor": {"step_factor": 0.5},
}


def losses(config):
    """Training losses and validation loss of a short run."""
    records = []
    metrics = MetricsFile(None)
    metrics.add = records.append
    result = fit(config, metrics, Hooks())
    return [record.get("loss", record.get("validation_loss")) for record in records], result.validation_loss


def test_every_hparam_has_a_case():
    assert set(HPARAM_CHANGES) == set(Hparams.model_fields)


@pytest.mark.parametrize("field", HPARAM_CHANGES)
def test_hparam_changes_the_run(gpt, field):
    base = {"lr": 0.01}
    if field in ("norm_gain_lr", "bias_lr"):
        gpt["model"] |= {"kind": "bert", "bias": True, "norm_gain": True}
        gpt["data"]["mask"] = 0.25
    if field in OPTIMIZER_FIELDS["sgd"]:
        base["optimizer"] = "sgd"
    if field == "adam_lr":
        base["optimizer"] = "muon"
    if field in SCHEDULE_FIELDS["step"]:
        base["schedule"] = "step"
    if field == "position_scale":
        gpt["model"]["positions"] = "learned"
    gpt["model"]["zero_query"] = False  # attention that attends from the first step
    assert losses(build(gpt, hparams=base)) != losses(build(gpt, hparams={**base, **HPARAM_CHANGES[field]}))


def test_the_same_config_gives_the_same_run(gpt):
    """The control of the tests above: what they compare does not differ by itself."""
    assert losses(build(gpt)) == losses(build(gpt))


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_gpt_sees_no_later_token_and_sees_earlier_ones(gpt, positions):
    config = build(gpt, model__positions=positions, model__zero_readout=False, model__zero_query=False)
    model = Learner(config, torch.device("cpu")).model
    tokens = torch.arange(16)[None]
    changed = tokens.clone()
    changed[0, 8] = 99
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert (before[:, 9:] - after[:, 9:]).abs().amax(-1).min() > 1e-4


def test_rotary_scores_depend_on_distance_only():
    q, k = torch.randn(8), torch.randn(8)
    scores = rotate(q.expand(12, 8)) @ rotate(k.expand(12, 8)).T
    torch.testing.assert_close(scores.diagonal(3), scores[0, 3].expand(9))
    assert not torch.isclose(scores[0, 3], scores[0, 4])


def test_attention_is_standard_attention_at_base_width(gpt):
    config = build(gpt, model__zero_query=False, model__positions="learned")
    attention = Learner(config, torch.device("cpu")).model.blocks[0].attention
    x = torch.randn(2, 16, 16)
    q, k, v = (
        layer(x).view(2, 16, 2, 8).transpose(1, 2) for layer in (attention.query, attention.key, attention.value)
    )
    standard = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(2, 16, 16)
    torch.testing.assert_close(attention(x), attention.out(standard))


def test_tied_model_shares_one_tensor(gpt):
    config = build(gpt, model__tied_embeddings=True)
    model = build_model(config.model, config.data.spec)
    assert model.readout.weight is model.embedding.weight
    assert "readout.weight" not in dict(model.named_parameters())


def test_mlp_flattens_any_shape(mlp):
    config = build(mlp)
    model = build_model(config.model, config.data.spec)
    assert model(torch.zeros(5, 1, 8, 8)).shape == (5, 10)
