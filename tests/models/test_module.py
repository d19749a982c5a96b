"""A user's own module and data: found, called, refused in words, trained, packed and checked."""

from __future__ import annotations

import math
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mutransfer import ModelFacts
from mutransfer.data import load_data
from mutransfer.data.dataset import IGNORED
from mutransfer.errors import ConfigError, DataError, PlanError, UsageError
from mutransfer.models import build_model, plan_of
from mutransfer.parametrization.roles import plan_for
from mutransfer.training.folder import TrainFolder
from mutransfer.training.loop import Hooks, fit, fit_pack
from mutransfer.training.losses import MetricsFile
from mutransfer.training.pack import CannotPack
from mutransfer.training.run import train
from mutransfer.verification.coord_check import check_config
from tests.conftest import build

HERE = "tests.models.test_module"


class Net(nn.Module):
    def __init__(self, width, vocab_size, drop=0.0, give="tensor"):
        super().__init__()
        self.embedding, self.give = nn.Embedding(vocab_size, width), give
        self.gate_up = nn.Linear(width, 2 * width)
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, tokens, targets=None):
        gate, up = self.gate_up(self.embedding(tokens)).chunk(2, -1)
        logits = self.head(self.drop(torch.relu(gate) * up))
        if self.give == "loss":
            return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return {"tensor": logits, "object": Output(logits), "dict": {"logits": logits}, "tuple": (logits, 1)}[self.give]


class Output:
    def __init__(self, logits):
        self.logits = logits


def net(width: int, vocab_size: int, drop: float = 0.0, give: str = "tensor") -> nn.Module:
    return Net(width, vocab_size, drop, give)


def with_depth(width: int, base_width: int, depth: int) -> nn.Module:
    return nn.Sequential(
        nn.Embedding(256, width), *(nn.Linear(width, width) for _ in range(depth)), nn.Linear(width, 256)
    )


def fused(width: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(256, width), nn.Linear(width, width + 10), nn.Linear(width + 10, 256))


def rounded(width: int) -> nn.Module:
    inner = -(-8 * width // 3 // 8) * 8
    return nn.Sequential(
        nn.Embedding(256, width), nn.Linear(width, inner), nn.Linear(inner, width), nn.Linear(width, 256)
    )


def raises(width: int) -> nn.Module:
    raise KeyError("no such thing")


def gives_none(width: int) -> None:
    return None


class Attentive(nn.Module):
    """Queries, keys and values from one matrix; head_dim grows, the scale is 1/√head_dim unless repaired."""

    def __init__(self, width, repaired):
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.attention = Attention(width, repaired)
        self.head = nn.Linear(width, 256)
        if repaired:
            self.declared = ModelFacts(attention={"attention": self.attention.head_dim})

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(x + self.attention(x))


class Attention(nn.Module):
    def __init__(self, width, repaired):
        super().__init__()
        self.head_dim = width // 2
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.scale = 1 / math.sqrt(self.head_dim)
        if repaired:
            self.register_buffer("attention_scale", torch.tensor(self.scale), persistent=False)

    def forward(self, x):
        q, k, v = (one.unflatten(-1, (2, -1)).transpose(1, 2) for one in self.qkv(x).chunk(3, -1))
        q = q * getattr(self, "attention_scale", self.scale)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).flatten(2))


def attentive(width: int, repaired: bool) -> nn.Module:
    return Attentive(width, repaired)


def examples(size: int = 200):
    inputs = torch.randn(size, 6, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs.sum(1) > 0).long()


def regression(size: int = 200):
    inputs, _ = examples(size)
    return (inputs, inputs.flip(1)), inputs[:, :1] * 2


class TwoInputs(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, width), nn.Linear(6, width), nn.Linear(width, 1)

    def forward(self, a, b):
        return self.head(torch.relu(self.a(a) + self.b(b)))


class Sparse:
    """Random tokens; nothing is to be guessed in the training steps and validation batches named."""

    def __init__(self, steps=(), parts=2, validations=()):
        self.fingerprint, self.steps, self.parts, self.validations = "sparse", steps, parts, validations

    def batch(self, step, *, batch_size, seed):
        tokens = np.random.default_rng([seed, step]).integers(0, 256, (batch_size, 4))
        return tokens, np.full_like(tokens, IGNORED) if step in self.steps else tokens

    def validation(self, *, batch_size, batches):
        for part in range(min(batches, self.parts)):
            tokens, _ = self.batch(1000 + part, batch_size=batch_size, seed=0)
            yield tokens, np.full_like(tokens, IGNORED) if part in self.validations else tokens


def two_inputs(width: int) -> nn.Module:
    return TwoInputs(width)


def features(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))


@pytest.fixture
def own(gpt):
    def made(factory, width=16, *, data=None, hparams=None, **fields):
        model = {"kind": "module", "factory": f"{HERE}:{factory}", "width": width, "base_width": 16, **fields}
        return build(
            {**gpt, "data": data or gpt["data"]}, model=model, search=None, hparams={"lr": 0.01, **(hparams or {})}
        )

    return made


def losses(config):
    records = []
    metrics = MetricsFile(None)
    metrics.add = records.append
    fit(config, metrics, Hooks())
    return [record.get("loss", record.get("validation_loss")) for record in records]


def test_sizes_of_the_data_and_keys_of_the_section_are_arguments(own):
    config = own("with_depth", 32, depth=3)
    assert len(build_model(config.model, config.data.spec)) == 5
    assert build_model(config.model.at_width(64), config.data.spec)[0].embedding_dim == 64
    net = build_model(own("net").model, config.data.spec)
    assert net.embedding.num_embeddings == 256


@pytest.mark.parametrize("give", ["object", "dict"])
def test_logits_may_come_in_an_object(own, give):
    assert losses(own("net", give=give)) == losses(own("net"))


def test_a_loss_that_the_module_returns(own):
    assert losses(own("net", give="loss", loss="returned")) == pytest.approx(losses(own("net")), rel=1e-6)


def test_what_a_module_draws_is_a_function_of_the_config(own):
    first = losses(own("net", drop=0.5))
    torch.rand(3)
    assert losses(own("net", drop=0.5)) == first != losses(own("net"))


def test_a_pack_trains_as_its_members_do(own):
    configs = [own("net", hparams={"lr": lr}) for lr in (0.001, 0.01)]
    kept = [[], []]
    files = []
    for rows in kept:
        files.append(MetricsFile(None))
        files[-1].add = rows.append
    fit_pack(configs, files, Hooks())
    for rows, config in zip(kept, configs, strict=True):
        assert [row.get("loss", row.get("validation_loss")) for row in rows] == pytest.approx(losses(config), rel=1e-4)


def test_a_pack_of_what_vmap_cannot_take_is_refused_and_says_why(own):
    with pytest.raises(CannotPack, match=r"packs cannot take \(vmap: called random operation.*--pack 1 trains one by"):
        fit_pack([own("net", drop=0.5)] * 2, [MetricsFile(None)] * 2, Hooks())


def test_a_returned_loss_is_validated_as_the_same_one_of_ours(own):
    """Targets that do not count weigh nothing in the mean over batches."""
    assert own("net", loss="returned").model.criterion.ignores
    assert own("net").model.criterion.ignores
    assert not own("net", loss="mse").model.criterion.ignores


def test_fused_matrices_are_hidden_and_the_readout_gets_its_multiplier(own):
    plan = plan_of(own("net", 64)).parameters
    assert (plan["gate_up.weight"].role, plan["gate_up.weight"].lr) == ("hidden", 0.25)
    assert (plan["head.weight"].role, plan["head.weight"].forward) == ("output", 0.25)


def test_parts_of_different_roles_in_one_matrix_are_refused(own):
    with pytest.raises(PlanError, match=r"1.weight: dimension 0 is 1 × width \+ 10 \(26 at width 16, 42 at 32\)"):
        plan_of(own("fused"))
    plan = plan_of(own("fused", roles={"1.weight": "hidden", "1.bias": "vector", "2.weight": "output"}))
    assert plan.parameters["1.weight"].role == "hidden"


def test_rounded_sizes_are_a_warning(own):
    plan = plan_of(own("rounded", 64))
    assert sum("so it is rounded" in warning for warning in plan.warnings) == 3
    assert plan.parameters["1.weight"].role == "hidden"


def test_sizes_that_grow_faster_are_none_of_it():
    def build(width):
        return nn.Sequential(nn.Linear(3, width), nn.Linear(width, width**2), nn.Linear(width**2, 2))

    plan = plan_for(build, width=16, base_width=4)
    assert plan.parameters["1.weight"].m_out == 16
    assert plan.warnings == ()


@pytest.mark.parametrize(
    ("factory", "fields", "message"),
    [
        ("nett", {}, "has no nett; did you mean net"),
        ("net", {"drap": 0.1}, r"model.drap: .* did you mean drop\?"),
        ("net", {"widht": 32}, r"model.widht: .* did you mean width\?"),
        ("with_depth", {}, "model.depth: is required"),
        ("raises", {}, r"raised KeyError: 'no such thing' \(.*test_module.py:\d+\)"),
        ("gives_none", {}, r"returned nothing \(None\), and not a torch.nn.Module"),
        ("HERE", {}, "is a str, which cannot be called"),
    ],
)
def test_a_factory_that_cannot_be_used(own, factory, fields, message):
    with pytest.raises(UsageError, match=message):
        plan_of(own(factory, **fields))


@pytest.mark.parametrize("name", ["a/b.py:f", "a.b", "a.b:", "3:f"])
def test_a_name_that_is_none(own, name):
    with pytest.raises(ValueError, match=r"must be written package.file:function"):
        own("net").model.model_validate({**own("net").model.model_dump(), "factory": name})


def test_a_file_that_is_not_there_or_cannot_be_imported(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "mine_syntax": "x = (",
        "mine_import": "import nowhere_at_all",
        "mine_zero": "\n1 / 0",
    }.items():
        Path(f"{name}.py").write_text(content, encoding="utf-8")

    def refused(name):
        config = own("net", data={"kind": "text", "source": "python-stdlib"})
        section = config.model.model_copy(update={"factory": f"{name}:build"})
        with pytest.raises(ConfigError) as caught:
            build_model(section, config.data.spec)
        return str(caught.value)

    assert "there is no module mine_absent in the current folder" in refused("mine_absent")
    assert "raised SyntaxError" in refused("mine_syntax")
    assert "No module named 'nowhere_at_all'" in refused("mine_import")
    assert refused("mine_zero").endswith("mine_zero.py:2)")


def test_a_factory_beside_the_caller_works_in_workers(own, tmp_path, monkeypatch):
    from mutransfer.executors.devices import Device
    from mutransfer.executors.local import LocalExecutor
    from mutransfer.sweep.coordinator import run_sweep

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    source = """
        from torch import nn
        def build(width, vocab_size):
            return nn.Sequential(nn.Embedding(vocab_size, width), nn.Linear(width, width), nn.Linear(width, vocab_size))
    """
    Path("mine_in_workers.py").write_text(textwrap.dedent(source), encoding="utf-8")
    base = own("net")
    plain = base.resolved()
    plain["model"]["factory"] = "mine_in_workers:build"
    plain["search"] = {"trials": 2, "confirm": {"top": 0}, "space": {"lr": {"log_uniform": [1e-3, 1e-2]}}}
    config = type(base).model_validate(plain)
    result = run_sweep(config, runs=tmp_path, pack=1, executor=lambda: LocalExecutor([Device("cpu", "cpu", 1)]))
    assert [record.outcome for record in result.records] == ["completed"] * 2


@pytest.mark.parametrize(
    ("factory", "fields", "message"),
    [
        ("features", {}, r"cannot be trained on this data \(inputs \(2, 16\) int64"),
        ("net", {"give": "tuple"}, "forward returned a tuple of 2"),
        ("net", {"loss": "returned"}, r"gives a loss of shape \(2, 16, 256\)"),
        ("net", {"give": "loss"}, "cannot be trained on this data.*NoneType.*test_module.py"),
    ],
)
def test_what_cannot_run_is_refused_before_a_folder_is_made(own, tmp_path, factory, fields, message):
    with pytest.raises(UsageError, match=message):
        train(own(factory, **fields), TrainFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def sparse(**fields):
    return {"kind": "module", "factory": f"{HERE}:Sparse", **fields}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parts": 0}, r"^data\.factory: .*: validation gave no batch; it must give at least one$"),
        ({"validations": [0, 1]}, r"^data\.factory: .*: the validation part has no target that counts: all are -100"),
        ({"steps": [0]}, r"^data\.factory: .*: the training batch of step 0 \(seed 0\) has no target that counts"),
    ],
)
def test_data_with_nothing_to_learn_or_to_validate_is_refused_before_a_folder_is_made(own, tmp_path, fields, message):
    with pytest.raises(DataError, match=message):
        train(own("with_depth", depth=1, data=sparse(**fields)), TrainFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("packed", [False, True])
def test_a_later_batch_with_nothing_to_learn_is_no_divergence(own, packed):
    config = own("with_depth", depth=1, data=sparse(steps=[5]))
    with pytest.raises(DataError, match=r"the training batch of step 5 \(from 0, seed 0\) has no target that counts"):
        fit_pack([config], [MetricsFile(None)], Hooks(), packed=packed)
    blown_up = own("with_depth", depth=1, data=sparse(), hparams={"lr": 1e30})
    assert fit_pack([blown_up], [MetricsFile(None)], Hooks(), packed=packed)[0].outcome == "diverged"


@pytest.mark.parametrize("packed", [False, True])
def test_a_validation_batch_with_nothing_to_predict_does_not_count(own, packed):
    def loss(**fields):
        config = own("with_depth", depth=1, data=sparse(**fields))
        return fit_pack([config], [MetricsFile(None)], Hooks(), packed=packed)[0].validation_loss

    assert loss(parts=2, validations=[1]) == loss(parts=1)
    assert loss(parts=2) != loss(parts=1)


def test_the_coordinate_check_names_the_attention_whose_scale_is_wrong(own):
    def check(repaired):
        config = own("attentive", repaired=repaired, hparams={"lr": 1e-2}, width=32)
        config = config.model_copy(update={"model": config.model.model_copy(update={"base_width": 32})})
        settings = {"seeds": 2, "threshold": 0.25, "control": False, "narrow": True, "lr": 1e-2}
        return check_config(config, sizes=[32, 128, 512], **settings)

    wrong = check(repaired=False)
    assert not wrong.passed
    assert wrong.culprit == "attention.attention_logits"
    assert "attention_scale" in wrong.hint
    assert "mutransfer.attention_scale" in wrong.hint
    assert check(repaired=True).passed


def test_own_data_of_one_input_and_of_several(own):
    one = own("features", data={"kind": "module", "factory": f"{HERE}:examples", "size": 100, "finite_sizes": [6, 2]},
              hparams={"lr": 0.05})  # fmt: skip
    assert losses(one)[-2] < losses(one)[0] - 0.02
    several = own("two_inputs", data={"kind": "module", "factory": f"{HERE}:regression"}, loss="mse")
    assert losses(several)[-1] < losses(several)[0] - 0.02
    data = load_data(one.data)
    inputs, targets = data.batch(0, batch_size=5, seed=0)
    assert (inputs.shape, str(inputs.dtype), targets.shape, str(targets.dtype)) == ((5, 6), "float32", (5,), "int64")
    assert sum(len(batch[1]) for batch in data.validation(batch_size=3, batches=99)) == 10


class OwnLoss(nn.Module):
    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(vocab_size, width), nn.Linear(width, width)
        self.readout = nn.Linear(width, vocab_size)

    def forward(self, tokens, targets):
        logits = self.readout(torch.relu(self.hidden(self.embedding(tokens))))
        return torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


def own_loss(width: int, vocab_size: int) -> nn.Module:
    return OwnLoss(width, vocab_size)


def test_a_returned_loss_trains_and_is_looked_into(own):
    config = own("own_loss", loss="returned")
    assert losses(config)[-1] < losses(config)[0] - 0.02
    settings = {"sizes": [32, 64, 128], "seeds": 1, "threshold": 0.25, "control": False, "narrow": True}
    assert {one.module for one in check_config(config, **settings).modules} >= {"embedding", "hidden", "readout"}


def narrow(width: int) -> nn.Module:
    hidden = nn.Linear(width, 8), nn.Linear(8, width)
    return nn.Sequential(nn.Embedding(256, width), *hidden, nn.Linear(width, 256))


def test_a_bottleneck_is_named_by_the_check_unless_it_is_meant(own):
    settings = {"sizes": [16, 32, 64], "seeds": 1, "threshold": 0.4, "control": False, "narrow": True}
    check = check_config(own("narrow", zero_readout=False), **settings)
    assert (check.passed, check.culprit) == (False, "1")
    assert 'allow it by name (finite), and say that it is not a readout: roles: {"1.weight": output}' in check.hint
    assert any(warning.startswith("1.weight: goes from the width to 8") for warning in check.warnings)
    meant = check_config(own("narrow", zero_readout=False, finite=["1"]), **settings)
    assert next(one for one in meant.modules if one.module == "1").outcome == "pass"
    for role in ("output", "hidden"):
        said = check_config(own("narrow", finite=["1"], roles={"1.weight": role}), **settings)
        assert (said.passed, said.warnings) == (True, ())


def test_finite_sizes_of_own_data_raise_no_warning(own):
    data = {"kind": "module", "factory": f"{HERE}:examples"}
    plans = [plan_of(build_at_six(own, {**data, **more})) for more in ({}, {"finite_sizes": [6]})]
    assert any("should it grow" in warning for warning in plans[0].warnings)
    assert not any("should it grow" in warning for warning in plans[1].warnings)


def build_at_six(own, data):
    config = own("features", data=data)
    return config.model_copy(update={"model": config.model.model_copy(update={"width": 6, "base_width": 6})})


def test_data_for_no_model_of_ours(own, gpt):
    with pytest.raises(ValueError, match="module gives what its factory returns, but model kind gpt takes tokens"):
        build({**gpt, "data": {"kind": "module", "factory": f"{HERE}:examples"}})


def frozen(width: int, vocab_size: int) -> nn.Module:
    model = Net(width, vocab_size)
    model.embedding.weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_packs_leave_frozen_weights_alone(own, optimizer):
    configs = [own("frozen", hparams={"lr": lr, "optimizer": optimizer}) for lr in (0.01, 0.02)]
    alone = [fit_pack([one], [MetricsFile(None)], Hooks(), packed=False)[0].validation_loss for one in configs]
    packed = [one.validation_loss for one in fit_pack(configs, [MetricsFile(None)] * 2, Hooks())]
    assert packed == pytest.approx(alone, rel=2e-3 if optimizer == "muon" else 2e-4)


class Running(nn.Module):
    """Divides by a running size of its activations."""

    def __init__(self, width, assigns):
        super().__init__()
        self.first, self.last, self.assigns = nn.Linear(6, width), nn.Linear(width, 2), assigns
        self.register_buffer("size", torch.ones(()))

    def forward(self, x):
        x = self.first(x).relu()
        if self.training:
            now = 0.5 * self.size + 0.5 * x.detach().square().mean()
            if self.assigns:
                self.size = now
            else:
                self.size.copy_(now)
        return self.last(x / (self.size + 1e-3).sqrt())


def running(width: int, assigns: bool = False) -> nn.Module:
    return Running(width, assigns)


def test_a_buffer_that_a_pack_would_lose_is_noticed(own):
    data = {"kind": "module", "factory": f"{HERE}:examples", "size": 100, "finite_sizes": [6, 2]}
    kept, lost = (own("running", data=data, assigns=assigns) for assigns in (False, True))
    (alone,) = fit_pack([kept], [MetricsFile(None)], Hooks(), packed=False)
    (packed,) = fit_pack([kept], [MetricsFile(None)], Hooks())
    assert packed.validation_loss == pytest.approx(alone.validation_loss, rel=1e-4)
    with pytest.raises(CannotPack, match="The model keeps state that a pack loses"):
        fit_pack([lost], [MetricsFile(None)], Hooks())
