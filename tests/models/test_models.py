"""What single models promise beyond the contract (test_contract.py), and that no hparam is dead."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mutransfer.config.hparams import SCHEDULE_FIELDS, Hparams
from mutransfer.models import build_model
from mutransfer.models.gpt import GPT
from mutransfer.models.layers import bucket_of, norm_of, rotary_tables, rotate
from mutransfer.training.learner import Learner
from mutransfer.training.loop import Hooks, fit
from mutransfer.training.losses import MetricsFile
from mutransfer.verification import check_config
from mutransfer.verification.activations import ATTENTION_LOGITS, record, rms
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
    "relative_scale": {"relative_scale": 2.0},
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
    if field == "momentum":
        base["optimizer"] = "sgd"
    if field == "adam_lr":
        base["optimizer"] = "muon"
    if field in SCHEDULE_FIELDS["step"]:
        base["schedule"] = "step"
    if field in ("position_scale", "relative_scale"):
        gpt["model"]["positions"] = "learned" if field == "position_scale" else "relative"
    gpt["model"]["zero_query"] = False  # attention that attends from the first step
    assert losses(build(gpt, hparams=base)) != losses(build(gpt, hparams={**base, **HPARAM_CHANGES[field]}))


def test_the_same_config_gives_the_same_run(gpt):
    """The control of the tests above: what they compare does not differ by itself."""
    assert losses(build(gpt)) == losses(build(gpt))


CAUSAL = [
    {"positions": "learned"},
    {"positions": "rotary"},
    {"positions": "relative"},
    {"head_dim": None, "heads": 2, "kv_heads": 1},
    {"positions": "relative", "kv_group": 2, "norm": "rmsnorm", "qk_norm": True, "mlp": "swiglu"},
]


@pytest.mark.parametrize("fields", CAUSAL, ids=str)
def test_gpt_sees_no_later_token_and_sees_earlier_ones(gpt, fields):
    gpt["model"] |= {"zero_readout": False, "zero_query": False, **fields}
    model = Learner(build(gpt), torch.device("cpu")).model
    if "relative" in fields.values():
        torch.nn.init.normal_(model.blocks[0].attention.relative.weight)
    tokens = torch.arange(16)[None]
    changed = tokens.clone()
    changed[0, 8] = 99
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert (before[:, 9:] - after[:, 9:]).abs().amax(-1).min() > 1e-4


def test_rotary_scores_depend_on_distance_only():
    q, k = torch.randn(8), torch.randn(8)
    tables = rotary_tables(q.expand(12, 8))
    scores = rotate(q.expand(12, 8), tables) @ rotate(k.expand(12, 8), tables).T
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
    torch.testing.assert_close(attention(x, causal=True), attention.out(standard))


def test_tied_model_shares_one_tensor(gpt):
    config = build(gpt, model__tied_embeddings=True)
    model = build_model(config.model, config.data.spec)
    assert model.readout.weight is model.embedding.weight
    assert "readout.weight" not in dict(model.named_parameters())


def test_mlp_flattens_any_shape(mlp):
    config = build(mlp)
    model = build_model(config.model, config.data.spec)
    assert model(torch.zeros(5, 1, 8, 8)).shape == (5, 10)


def test_buckets_are_exact_nearby_and_spread_by_the_logarithm_beyond():
    """Against the boundaries by hand: 8 buckets, 4 of them exact, the others 4 · (64/4)^(k/4) = 4, 8, 16, 32."""
    found = bucket_of(torch.arange(100), 8, 64)
    assert found[:4].tolist() == [0, 1, 2, 3]
    assert [int((found < bucket).sum()) for bucket in (5, 6, 7)] == [8, 16, 32]
    assert set(found[32:].tolist()) == {7}
    assert bucket_of(torch.arange(4), 2, 3).tolist() == [0, 1, 1, 1]


def test_a_relative_bias_is_added_to_the_logits_of_its_head_and_distance(gpt):
    gpt["model"] |= {"positions": "relative", "relative_buckets": 4, "relative_distance": 8}
    config = build(gpt, hparams__relative_scale=3.0)
    attention = Learner(config, torch.device("cpu")).model.blocks[0].attention
    torch.nn.init.normal_(attention.relative.weight)  # queries are zero, so that the bias is all there is
    x = torch.randn(2, 16, 16)
    v = attention.value(x).view(2, 16, 2, 8)
    expected = torch.zeros(2, 16, 2, 8)
    for s in range(16):
        for head in range(2):
            bias = [3.0 * attention.relative.weight[bucket_of(torch.tensor(s - t), 4, 8), head] for t in range(s + 1)]
            shares = torch.stack(bias).softmax(0)
            expected[:, s, head] = torch.einsum("t,btk->bk", shares, v[:, : s + 1, head])
    torch.testing.assert_close(attention(x), attention.out(expected.flatten(-2)))


@pytest.mark.parametrize("fields", [{"kv_group": 2}, {"kv_heads": 2, "head_dim": None, "heads": 4}])
def test_grouped_queries_share_keys_and_values_in_order(gpt, fields):
    """Against attention with a key and a value per head, those of a group being the same."""
    gpt["model"] |= {"width": 32, "base_width": 32, "zero_query": False}
    grouped = Learner(build(gpt, model={**gpt["model"], **fields}), torch.device("cpu")).model.blocks[0].attention
    plain = Learner(build(gpt), torch.device("cpu")).model.blocks[0].attention
    assert grouped.key.weight.shape == grouped.value.weight.shape == (16, 32)
    state = grouped.state_dict()
    for name in ("key.weight", "value.weight"):
        state[name] = state[name].view(2, 8, 32)[[0, 0, 1, 1]].reshape(32, 32)
    plain.load_state_dict(state)
    x = torch.randn(2, 16, 32)
    torch.testing.assert_close(grouped(x), plain(x))


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_qk_norm_bounds_the_logits_whatever_the_weights(gpt, norm):
    """By √(base d_head) at every head size: q and k then have entries of size 1."""
    gpt["model"] |= {"head_dim": None, "heads": 2, "width": 64, "qk_norm": True, "norm": norm, "positions": "learned"}
    attention = Learner(build(gpt), torch.device("cpu")).model.blocks[0].attention
    for layer in (attention.query, attention.key):
        layer.weight.data *= 100
    logits = record(attention, lambda: attention(torch.randn(2, 16, 64)))[ATTENTION_LOGITS].values
    assert 0.1 < float(logits.nan_to_num().abs().max()) <= math.sqrt(8)
    attention.query_norm = attention.key_norm = None  # the control: what bounds them are the norms
    assert rms(record(attention, lambda: attention(torch.randn(2, 16, 64)))[ATTENTION_LOGITS].values) > 100


def test_rmsnorm_divides_by_the_root_mean_square_and_leaves_the_mean(gpt):
    x = 3 + torch.randn(4, 16)
    rmsnorm, layernorm = (norm_of(build(gpt, model__norm=norm).model, 16) for norm in ("rmsnorm", "layernorm"))
    torch.testing.assert_close(rmsnorm(x), x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt())
    torch.testing.assert_close(
        layernorm(x), (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    )


def test_swiglu_is_a_gate_of_silu(gpt):
    block = Learner(build(gpt, model__mlp="swiglu"), torch.device("cpu")).model.blocks[0]
    x = torch.randn(2, 16, 16)
    gate = x @ block.gate.weight.T
    expected = gate / (1 + torch.exp(-gate)) * (x @ block.up.weight.T)
    torch.testing.assert_close(block._inner(x), expected)


@pytest.mark.parametrize("fields", CAUSAL[2:], ids=str)
def test_variants_train_in_bf16(gpt, fields):
    gpt["model"] |= fields
    found, _ = losses(build(gpt, training__precision="bf16"))
    fp32, _ = losses(build(gpt))
    assert found == pytest.approx(fp32, rel=0.05)
    assert found != fp32


def test_a_relative_bias_of_more_heads_needs_the_role_of_a_vector(gpt):
    """Under sgd, where the role is in the lr: its change stays, and as a scalar (the control) it falls like 1/width."""
    gpt["model"] |= {"width": 64, "base_width": 64, "head_dim": 16, "positions": "relative", "relative_buckets": 8}
    config = build(gpt, hparams={"optimizer": "sgd", "lr": 0.1, "momentum": 0.9})

    def slope():
        check = check_config(config, control=False, seeds=2, sizes=[64, 128, 256])
        return next(one for one in check.modules if one.module == "blocks.0.attention.relative").change.value

    assert abs(slope()) < 0.2
    init = GPT.__init__

    def as_scalar(self, *given):
        init(self, *given)
        self.facts = self.facts.extended(roles=dict.fromkeys(self.facts.roles, "scalar"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GPT, "__init__", as_scalar)
        assert slope() < -0.8
