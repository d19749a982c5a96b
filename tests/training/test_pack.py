"""A pack's members against their solo runs: same losses, none touched by another."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.func import vmap

from mutransfer.data import load_data
from mutransfer.training.kernels import PackedKernels
from mutransfer.training.learner import Learner
from mutransfer.training.loop import Hooks, fit, fit_pack
from mutransfer.training.losses import MetricsFile, read_metrics
from mutransfer.training.pack import CannotPack, PackLearner
from tests.conftest import build

CPU = torch.device("cpu")
# Every hparam that a pack carries, each differing between members.
ADAM = [
    {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1, "clip": 0.5},
    {"optimizer": "adamw", "lr": 0.02, "init_scale": 1.5, "beta1": 0.8, "beta2": 0.99, "warmup": 0.3},
    {"optimizer": "adamw", "lr": 0.003, "temperature": 0.5, "eps": 1e-6, "schedule": "linear", "final_lr": 0.3},
]
ATTENTION = {"attention_temperature": 0.5, "embedding_scale": 2.0, "embedding_lr": 4.0}
MEMBERS = {
    "adamw": ADAM,
    "adam": [{**{k: v for k, v in one.items() if k != "weight_decay"}, "optimizer": "adam"} for one in ADAM],
    "sgd": [
        {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
        {"optimizer": "sgd", "lr": 0.2, "momentum": 0.0, "clip": 0.1, "schedule": "constant"},
        {"optimizer": "sgd", "lr": 0.05, "init_scale": 0.5, "temperature": 2.0},
    ],
    "lion": [
        {"optimizer": "lion", "lr": 0.001, "weight_decay": 0.1, "clip": 0.5},
        {"optimizer": "lion", "lr": 0.003, "init_scale": 1.5, "beta1": 0.8, "beta2": 0.95, "warmup": 0.3},
        {"optimizer": "lion", "lr": 0.002, "temperature": 0.5, "schedule": "linear", "final_lr": 0.3},
    ],
    "muon": [
        {"optimizer": "muon", "lr": 0.005, "adam_lr": 0.01, "weight_decay": 0.1},
        {"optimizer": "muon", "lr": 0.002, "momentum": 0.8, "beta2": 0.99},
        {"optimizer": "muon", "lr": 0.008, "init_scale": 1.5, "clip": 0.5},
    ],
}


def members(base, optimizer, *, steps=100, **changes):
    hparams = [dict(one) for one in MEMBERS[optimizer]]
    if base["model"]["kind"] == "gpt":
        hparams[0] |= ATTENTION
    return [
        build(base, hparams=one, model__width=2 * base["model"]["base_width"], training__steps=steps, **changes)
        for one in hparams
    ]


def curves(configs, steps, seeds=None):
    """Losses (steps, N) of the pack, and of each member by itself."""
    data = load_data(configs[0].data)
    size = configs[0].training.batch_size
    pack, alone = PackLearner(configs, CPU), [Learner(config, CPU) for config in configs]
    seeds = [config.training.seed for config in configs]
    together, apart = [], []
    for step in range(steps):
        batches = [data.batch(step, batch_size=size, seed=seed) for seed in seeds]
        together.append(pack.train_step(step, batches if len(set(seeds)) > 1 else batches[:1]))
        apart.append(torch.stack([one.train_step(step, own) for one, own in zip(alone, batches, strict=True)]))
    batch = data.batch(0, batch_size=size, seed=0)
    assert pack.evaluate([batch]) == pytest.approx([one.evaluate([batch]) for one in alone], rel=1e-4)
    return torch.stack(together), torch.stack(apart)


def furthest(together, apart):
    return float(((together - apart).abs() / apart.abs()).max())


@pytest.fixture
def exact_muon(monkeypatch):
    """torch's Muon runs Newton-Schulz in bf16, where a last bit of fp32 may turn into 2^-8: here in full precision."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)


@pytest.mark.usefixtures("exact_muon")
@pytest.mark.parametrize("optimizer", MEMBERS)
@pytest.mark.parametrize("kind", ["gpt", "mlp"])
def test_members_train_as_alone(request, kind, optimizer):
    configs = members(request.getfixturevalue(kind), optimizer)
    together, apart = curves(configs, 100)
    assert furthest(together, apart) < 1e-4
    assert float(apart[0].max()) / float(apart.min()) > 1.2  # they learn, and are not one another's copies
    assert furthest(together[:, [1, 2, 0]], apart) > 1e-2


@pytest.mark.parametrize("kind", ["gpt", "mlp"])
def test_members_train_nearly_as_alone_where_muon_runs_in_bf16(request, kind):
    together, apart = curves(members(request.getfixturevalue(kind), "muon"), 100)
    assert furthest(together, apart) < 2e-3


@pytest.mark.usefixtures("double", "exact_muon")
@pytest.mark.parametrize("optimizer", MEMBERS)
@pytest.mark.parametrize("kind", ["gpt", "mlp"])
def test_members_train_as_alone_in_fp64(request, kind, optimizer):
    together, apart = curves(members(request.getfixturevalue(kind), optimizer), 100)
    assert together.dtype == torch.float64
    assert furthest(together, apart) < 1e-9


def test_members_may_differ_in_seed(gpt):
    configs = [build(gpt, training__seed=seed, training__steps=20) for seed in (0, 1, 7)]
    together, apart = curves(configs, 20)
    assert furthest(together, apart) < 1e-4
    assert len(set(together[0].tolist())) > 1 or len(set(together[5].tolist())) == 3


@pytest.mark.parametrize("optimizer", MEMBERS)
def test_a_member_that_blows_up_touches_no_other_and_is_dropped(gpt, tmp_path, optimizer):
    """One member gets an lr that ends in NaN; the others' metrics are what they are without it."""
    fine = members(gpt, optimizer, steps=30)
    bad = fine[0].with_hparams({"lr": 1e12, "clip": None, "warmup": 0.0})
    mixed = [fine[0], bad, *fine[1:]]
    files = [tmp_path / f"{index}.jsonl" for index in range(len(mixed))]
    results = fit_pack(mixed, [MetricsFile(path) for path in files], Hooks())
    assert [result.outcome for result in results] == ["completed", "diverged", "completed", "completed"]
    assert results[1].steps < 30
    assert len(list(read_metrics(files[1]))) == results[1].steps
    for index, config in ((0, fine[0]), (2, fine[1]), (3, fine[2])):
        alone = fit(config, MetricsFile(tmp_path / "alone.jsonl"), Hooks())
        assert results[index].validation_loss == pytest.approx(alone.validation_loss, rel=1e-4)
        assert results[index].training_loss == pytest.approx(alone.training_loss, rel=1e-4)
        assert results[index].steps == 30
        (tmp_path / "alone.jsonl").unlink()


def test_all_members_diverging_ends_the_pack(mlp):
    bad = [build(mlp, hparams={"optimizer": "sgd", "lr": lr}, training__steps=200) for lr in (1e9, 1e10)]
    results = fit_pack(bad, [MetricsFile(None)] * 2, Hooks())
    assert [result.outcome for result in results] == ["diverged", "diverged"]
    assert max(result.steps for result in results) < 50
    assert [result.validation_loss for result in results] == [None, None]


def test_interruption_ends_every_member(gpt):
    class Stop(Hooks):
        def should_stop(self):
            return True

    results = fit_pack([build(gpt), build(gpt, hparams__lr=0.02)], [MetricsFile(None)] * 2, Stop())
    assert [(result.outcome, result.steps) for result in results] == [("interrupted", 1)] * 2


def test_what_cannot_be_packed_is_refused(gpt):
    for change in ({"model__depth": 2}, {"training__steps": 5}, {"hparams": {"optimizer": "adam"}}):
        with pytest.raises(CannotPack, match="differ in more than hparams and seed"):
            PackLearner([build(gpt), build(gpt, **change)], CPU)
    with pytest.raises(CannotPack, match="compile"):
        PackLearner([build(gpt, training__compile=True)] * 2, CPU)


@pytest.mark.filterwarnings("error:.*performance drop")
@pytest.mark.parametrize("mask", ["causal", "none", "shared", "own", "batched"])
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_attention_under_vmap_is_attention(mask, leading):
    """Folded attention against a loop over members, forward and backward; queries with and without batch and heads."""
    if mask == "batched" and not leading:
        pytest.skip("no batch to have a mask each")
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    query, key, value = (draw(4, *leading, 5, 8) for _ in range(3))
    given = {"shared": draw(5, 5), "own": draw(4, 5, 5), "batched": draw(4, *leading, 5, 5)}.get(mask)

    def attend(query, key, value, mask_here):
        return F.scaled_dot_product_attention(query, key, value, mask_here, is_causal=mask == "causal")

    mask_dim = 0 if mask in ("own", "batched") else None
    with PackedKernels():
        folded = vmap(attend, in_dims=(0, 0, 0, mask_dim))(query, key, value, given)
    looped = torch.stack([attend(query[i], key[i], value[i], given[i] if mask_dim == 0 else given) for i in range(4)])
    assert torch.allclose(folded, looped, rtol=1e-12, atol=1e-12)
    inputs = [one for one in (query, key, value, given) if one is not None]
    for ours, theirs in zip(
        torch.autograd.grad(folded.square().sum(), inputs),
        torch.autograd.grad(looped.square().sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("error:.*performance drop")
@pytest.mark.parametrize("mask_dim", [0, None])
def test_grouped_attention_with_a_bias_per_head_under_vmap_is_attention(mask_dim):
    """SDPA's own enable_gqa, as users' modules may have it, and a bias (H, S, S) without a batch."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    query, key, value = draw(4, 2, 6, 5, 8), draw(4, 2, 3, 5, 8), draw(4, 2, 3, 5, 8)
    bias = draw(4, 6, 5, 5) if mask_dim == 0 else draw(6, 5, 5)

    def attend(query, key, value, bias):
        return F.scaled_dot_product_attention(query, key, value, bias, enable_gqa=True)

    with PackedKernels():
        folded = vmap(attend, in_dims=(0, 0, 0, mask_dim))(query, key, value, bias)
    looped = torch.stack([attend(query[i], key[i], value[i], bias[i] if mask_dim == 0 else bias) for i in range(4)])
    assert torch.allclose(folded, looped, rtol=1e-12, atol=1e-12)
    inputs = (query, key, value, bias)
    for ours, theirs in zip(
        torch.autograd.grad(folded.square().sum(), inputs),
        torch.autograd.grad(looped.square().sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("inner", [(), (7,), (3, 7)])
@pytest.mark.parametrize("dims", [(0, 0, 0), (None, 0, 0), (0, 0, None), (0, None, None), (1, 0, 0), (None, 1, None)])
def test_linear_under_vmap_is_linear(inner, dims):
    """Products of members against torch's own, forward and backward."""
    if dims[0] == 1 and not inner:
        pytest.skip("no second axis")
    generator = torch.Generator().manual_seed(0)

    def draw(dim, *shape):
        shape = list(shape)
        if dim is not None:
            shape.insert(dim, 4)
        return torch.randn(*shape, generator=generator, requires_grad=True)

    x, weight, bias = draw(dims[0], *inner, 6), draw(dims[1], 5, 6), draw(dims[2], 5)
    with PackedKernels():
        ours = vmap(F.linear, in_dims=dims)(x, weight, bias)
    theirs = vmap(F.linear, in_dims=dims)(x, weight, bias)
    assert torch.allclose(ours, theirs, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad(ours.square().sum(), (x, weight, bias)),
        torch.autograd.grad(theirs.square().sum(), (x, weight, bias)),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_members_bits_do_not_depend_on_the_pack(mlp, optimizer):
    """Resumed sweeps pack trials anew; rows that are no multiple of a vector's length are what could differ."""
    configs = members(mlp, optimizer, training__batch_size=10)
    data = load_data(configs[0].data)
    packs = [PackLearner(some, CPU) for some in (configs, configs[1:], configs[2:])]
    for step in range(5):
        batch = data.batch(step, batch_size=10, seed=0)
        losses = [pack.train_step(step, [batch]) for pack in packs]
        assert torch.equal(losses[0][1:], losses[1])
        assert torch.equal(losses[0][2:], losses[2])
    assert losses[0][1] != losses[0][2]
