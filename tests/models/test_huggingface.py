"""Models of transformers: built from a config, scaled through its fields, trained, packed, exported."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

if importlib.util.find_spec("transformers") is None:
    pytest.skip("needs the extra hf", allow_module_level=True)

from mutransfer import hub
from mutransfer.config.data import TokenSpec
from mutransfer.errors import ConfigError, UsageError
from mutransfer.models import build_model, plan_of
from mutransfer.models.huggingface import reloaded
from mutransfer.models.huggingface_check import require_own_function
from mutransfer.models.huggingface_config import transformers
from mutransfer.models.huggingface_export import rehearse, save_pretrained, write_plain
from mutransfer.training.checkpoint import save_weights
from mutransfer.training.learner import Learner, start_at
from mutransfer.training.loop import Hooks, fit_pack
from mutransfer.training.losses import MetricsFile
from tests.conftest import build

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 1, "n_positions": 99, "vocab_size": 50257}
LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 88, "num_hidden_layers": 1, "head_dim": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32000, "max_position_embeddings": 99,
}  # fmt: skip
FAMILIES = {
    "llama": LLAMA,
    "gpt2": GPT2,
    "qwen2": {**LLAMA, "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {**LLAMA, "model_type": "qwen3"},
    "bert": {
        "model_type": "bert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 4, "vocab_size": 30522, "max_position_embeddings": 99,
    },
}  # fmt: skip
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def hf(tmp_path, gpt):
    """Makes the config of a family at a width, with further fields of the model section and changes to the file."""

    def made(family, width=32, *, file=None, hparams=None, **fields):
        path = tmp_path / f"{family}.json"
        path.write_text(json.dumps({**FAMILIES[family], **(file or {})}), encoding="utf-8")
        model = {"kind": "huggingface", "config": str(path), "width": width, "base_width": 32, **fields}
        return build(gpt, model=model, hparams={"lr": 0.01, **(hparams or {})}, search=None)

    return made


def losses(configs, *, packed):
    kept = []
    for _ in configs:
        kept.append([])
    files = []
    for rows in kept:
        file = MetricsFile(None)
        file.add = rows.append
        files.append(file)
    fit_pack(configs, files, Hooks(), packed=packed)
    return [[row["loss"] for row in rows if "loss" in row] for rows in kept]


@every_family
def test_roles_are_the_same_at_every_width_and_every_size_follows(hf, family):
    plans = [plan_of(hf(family, width)) for width in (32, 64, 128)]
    roles = [{name: one.role for name, one in plan.parameters.items()} for plan in plans]
    assert roles[0] == roles[1] == roles[2]
    matrices = {name: one for name, one in plans[2].parameters.items() if len(one.shape) == 2}
    assert {roles[0][name] for name in matrices} == {"input", "hidden", "output"}
    for name, one in matrices.items():
        assert {"input": (1, 4), "hidden": (4, 4), "output": (4, 1)}[one.role] == (one.m_in, one.m_out), name
    assert list(plans[2].attention.values()) == [pytest.approx(8**-0.5)]  # heads multiply
    assert not any("should it grow" in warning for warning in plans[2].warnings)


def test_conv1d_is_read_the_other_way_round(hf):
    plan = plan_of(hf("gpt2", 64)).parameters
    up, down = plan["transformer.h.0.mlp.c_fc.weight"], plan["transformer.h.0.mlp.c_proj.weight"]
    assert (up.shape, up.fan_in, up.init_std) == ((64, 256), 64, pytest.approx(64**-0.5))
    assert (down.shape, down.fan_in, down.init_std) == ((256, 64), 256, pytest.approx(256**-0.5))
    assert plan["transformer.h.0.attn.c_attn.weight"].role == "hidden"
    assert plan["transformer.h.0.attn.c_attn.bias"].init_std == 0.0


@every_family
def test_trained_checkpoint_reloads_in_transformers_with_equal_logits(hf, family, tmp_path):
    hparams = {"temperature": 0.5, "attention_temperature": 0.25, "embedding_scale": 2.0}
    free = {} if family in ("gpt2", "bert", "qwen2") else {"zero_readout": False}
    query = {} if family == "gpt2" else {"zero_query": False}
    config = hf(family, 64, hparams=hparams, grow="head_dim", **free, **query)
    learner = Learner(config, torch.device("cpu"))
    data = torch.randint(0, 256, (6, 17), generator=torch.Generator().manual_seed(0)).numpy()
    for step in range(4):
        learner.train_step(step, (data[:, :-1].copy(), data[:, 1:].copy()))
    save_weights(tmp_path / "model.safetensors", learner.model)
    save_pretrained(config, tmp_path / "model.safetensors", tmp_path / "pretrained")
    for weights in tmp_path.rglob("*.safetensors"):
        assert weights.stat().st_mode & 0o777 == 0o644  # a colleague may load them
    plain = transformers().AutoModelForCausalLM.from_pretrained(tmp_path / "pretrained").eval()
    tokens = torch.randint(0, 256, (3, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = learner.model.eval()(tokens)
        torch.testing.assert_close(plain(tokens).logits, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 1e-2
    assert set(vars(plain.config)) >= {"vocab_size"}
    assert plain.config.vocab_size == 256


def test_a_factor_left_out_of_the_export_is_noticed(hf, tmp_path, monkeypatch):
    config = hf("llama", 64, hparams={"attention_temperature": 0.25}, zero_readout=False, zero_query=False)
    learner = Learner(config, torch.device("cpu"))
    save_weights(tmp_path / "model.safetensors", learner.model)
    monkeypatch.setattr("mutransfer.models.huggingface_export._fold_attention", lambda *models, by_head: None)
    with pytest.raises(UsageError, match="differ from the trained model's"):
        save_pretrained(config, tmp_path / "model.safetensors", tmp_path / "pretrained")
    assert not (tmp_path / "pretrained").exists()


@every_family
def test_a_pack_trains_as_its_members_do(hf, family):
    configs = [hf(family, 32, hparams={"lr": lr, "temperature": lr * 100}) for lr in (0.003, 0.01)]
    alone, packed = losses(configs, packed=False), losses(configs, packed=True)
    assert packed == [pytest.approx(one, rel=2e-4) for one in alone]
    assert alone[1][-1] < alone[1][0] - 0.1


@every_family
def test_no_token_sees_a_later_one(hf, family):
    model = Learner(hf(family, 32, **({} if family == "gpt2" else {"zero_query": False})), torch.device("cpu")).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    tokens = torch.arange(16)[None]
    changed = tokens.clone()
    changed[0, 8] = 99
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert (before[:, 9:] - after[:, 9:]).abs().amax(-1).min() > 1e-4


@dataclass(frozen=True)
class MaskedSpec(TokenSpec):
    """Tokens of which some are to be guessed."""

    consumed_as: ClassVar = "masked tokens"


def test_on_masked_tokens_bert_sees_both_ways_and_its_export_too(hf, tmp_path):
    config = hf("bert", 64, zero_query=False)
    spec = MaskedSpec(vocab_size=256, seq_len=16)
    assert type(config.model).accepts("masked tokens")
    model = build_model(config.model, spec)
    start_at(model, plan_of(config), config)
    assert type(model).__name__ == "BertForMaskedLM"
    tokens = torch.arange(16)[None]
    changed = tokens.clone()
    changed[0, 8] = 99
    assert (model(tokens)[:, :8] - model(changed)[:, :8]).abs().max() > 1e-3
    write_plain(model, spec, tmp_path / "pretrained")
    plain = reloaded(tmp_path / "pretrained", "masked tokens")
    assert type(plain).__name__ == "BertForMaskedLM"
    torch.testing.assert_close(plain.eval()(tokens).logits, model.eval()(tokens), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="no model for masked tokens"):
        build_model(hf("llama").model, spec)


def test_attention_scale_follows_heads_that_grow(hf):
    plan = plan_of(hf("llama", 128, grow="head_dim"))
    assert set(plan.attention.values()) == {math.sqrt(8) / 32}
    model = Learner(
        hf("llama", 128, grow="head_dim", hparams={"attention_temperature": 0.5}), torch.device("cpu")
    ).model
    attention = model.model.layers[0].self_attn
    assert attention.attention_scale.item() == pytest.approx(2 * math.sqrt(8) / 32)
    assert attention.scaling == pytest.approx(1.0)


def test_width_goes_through_the_fields_of_the_config(hf):
    own = build_model(hf("llama", 64, depth=2, overrides={"rms_norm_eps": 0.5}).model, hf("llama").data.spec).config
    assert (own.hidden_size, own.intermediate_size, own.num_attention_heads, own.num_key_value_heads) == (64, 176, 8, 4)
    assert (own.head_dim, own.num_hidden_layers, own.rms_norm_eps) == (8, 2, 0.5)
    assert (own.vocab_size, own.max_position_embeddings) == (256, 16)
    given = hf("llama", 64, width_fields={"intermediate_size": 3, "num_key_value_heads": "1/32"})
    own = build_model(given.model, given.data.spec).config
    assert (own.intermediate_size, own.num_attention_heads, own.num_key_value_heads) == (192, 8, 2)


def test_kv_heads_that_do_not_grow_are_fine_where_they_have_a_matrix_of_their_own(hf):
    roles = plan_of(hf("llama", 64, width_fields={"num_key_value_heads": "1/32"})).parameters
    assert roles["model.layers.0.self_attn.k_proj.weight"].role == "hidden"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 48, "width_fields": {"num_attention_heads": "1/32"}}, "num_attention_heads would be 1.5"),
        ({"width": 40, "grow": "heads"}, "num_key_value_heads would be 2.5"),
        ({"overrides": {"hiden_size": 3}}, "overrides.hiden_size.*did you mean hidden_size"),
        ({"width_fields": {"intermediat": 3}}, "width_fields.intermediat.*did you mean intermediate_size"),
        ({"config": "nowhere/else/config.json"}, "no such file"),
    ],
)
def test_what_does_not_fit_is_refused(hf, fields, message):
    with pytest.raises(ConfigError, match=message):
        plan_of(hf("llama", **fields))


def test_a_name_that_is_not_local_and_a_hub_that_cannot_be_reached(hf, monkeypatch):
    def unreachable(address, timeout):
        raise OSError(f"no route to {address[0]}")

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("socket.create_connection", unreachable)
    monkeypatch.setattr(hub, "_why_no_connection", hub._why_no_connection.__wrapped__)
    with pytest.raises(ConfigError, match=r"some/model: is not a local file.*no route to.*config.json"):
        plan_of(hf("llama", config="some/model"))


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not JSON"), ("{}", "no model_type"), ('{"model_type": "none"}', "transformers cannot make a none")],
)
def test_a_config_that_is_none(hf, tmp_path, content, message):
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        plan_of(hf("llama", config=str(tmp_path)))
    assert len(str(caught.value)) < 600  # transformers would list every family that it knows


def test_attention_scaled_in_another_way_keeps_its_scale_at_the_base_width(hf):
    unscaled = {"scale_attn_weights": False}
    for grow in ("heads", "head_dim"):
        rehearse(hf("gpt2", file=unscaled, grow=grow))
    config = hf("gpt2", 128, file=unscaled, grow="head_dim")
    model = build_model(config.model, config.data.spec)
    (name, scale), *_ = plan_of(config).attention.items()
    assert scale * model.get_submodule(name).scaling == pytest.approx(8 / 32)  # 1 at heads of 8


def test_windows_shorter_than_the_sequences_are_the_familys_own(hf):
    require_own_function(hf("qwen2", file={"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}))


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("gpt2", {"zero_query": True}, "zero_query: is impossible"),
        ("gpt2", {"zero_readout": True}, "zero_readout: is impossible"),
    ],
)
def test_zeros_that_cannot_be(hf, family, fields, message):
    with pytest.raises(ConfigError, match=message):
        plan_of(hf(family, **fields))


def test_dropout_is_off_unless_asked_for_and_then_named(hf):
    plain, dropped = hf("gpt2"), hf("gpt2", dropout=True)
    assert losses([plain], packed=False) == losses([plain], packed=False)
    assert losses([plain], packed=False) != losses([dropped], packed=False)
    assert losses([dropped], packed=False) == losses([dropped], packed=False)
    assert not any("dropout" in warning for warning in plan_of(plain).warnings)
    assert any("dropout is on (" in warning for warning in plan_of(dropped).warnings)


def test_norm_gains_train_only_when_asked_to(hf):
    assert "model.norm.weight" not in plan_of(hf("llama")).parameters
    assert plan_of(hf("llama", norm_gain=True)).parameters["model.norm.weight"].role == "vector"


def test_positions_have_a_scale_where_they_are_learned(hf):
    assert losses([hf("gpt2")], packed=False) != losses([hf("gpt2", hparams={"position_scale": 2.0})], packed=False)
    with pytest.raises(ValueError, match="llama has no table of learned positions"):
        hf("llama", hparams={"position_scale": 2.0})
