"""What leaves as a plain model of transformers, and what is refused before it is trained."""

from __future__ import annotations

import importlib.util
import json

import pytest

if importlib.util.find_spec("transformers") is None:
    pytest.skip("needs the extra hf", allow_module_level=True)

import torch

from mutransfer.errors import PlanError
from mutransfer.models import build_model, plan_of
from mutransfer.models.huggingface import reloaded
from mutransfer.models.huggingface_check import distance, random_inputs, randomize
from mutransfer.models.huggingface_export import rehearse, write_plain
from mutransfer.parametrization.apply import set_multipliers
from tests.conftest import build

COMMON = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
GROUPED = {**COMMON, "num_key_value_heads": 2, "head_dim": 8}
BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}  # fmt: skip
MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
       "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
       "moe_intermediate_size": 32, "first_k_dense_replace": 0}  # fmt: skip
EXPORTED = {
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4},  # always tied
    "bart": {**BART, "scale_embedding": True},
    "gemma3_text": {**GROUPED, "query_pre_attn_scalar": 8},  # norms multiply by 1 + weight
    "cohere": {**GROUPED, "use_qk_norm": True},
    "olmo2": GROUPED,
    "persimmon": COMMON,
    "phi3": {**GROUPED, "pad_token_id": None},
    "gpt_neox": COMMON,
    "gpt_bigcode": {"n_embd": 32, "n_head": 4, "n_layer": 1, "multi_query": True},
    "modernbert-decoder": COMMON,
    "deepseek_v3": {**COMMON, **MLA},
    "ctrl": {"n_embd": 32, "n_layer": 1, "n_head": 4, "dff": 64},
}
UNSCALED = ("ctrl",)  # its attention scale cannot be set


@pytest.fixture
def hf(tmp_path, gpt):
    """Makes the config of a family whose scales are swept."""
    (tmp_path / "pairs.jsonl").write_text("\n".join([json.dumps({"source": "ab", "target": "ba"})] * 20), "utf-8")
    pairs = {"kind": "translation", "path": str(tmp_path / "pairs.jsonl"), "source_field": "source", "seq_len": 8,
             "target_field": "target", "tokenizer": "bytes"}  # fmt: skip

    def made(family, fields, *, scales=("temperature", "embedding_scale"), width=32, **model):
        path = tmp_path / f"{family}.json"
        path.write_text(json.dumps({"model_type": family, **fields}), encoding="utf-8")
        section = {"kind": "huggingface", "config": str(path), "width": width, "base_width": 32, **model}
        data = pairs if family in ("t5", "bart") else gpt["data"]
        search = {"trials": 2, "space": {name: {"choice": [0.5, 2.0]} for name in scales}}
        return build({**gpt, "data": data}, model=section, hparams={"lr": 0.01}, search=search)

    return made


@pytest.mark.parametrize("family", EXPORTED)
def test_every_scale_goes_into_weights(hf, family, tmp_path):
    scales = ("temperature", "embedding_scale", *(() if family in UNSCALED else ("attention_temperature",)))
    config = hf(family, EXPORTED[family], scales=scales, width=128)
    rehearse(config)
    model, spec = build_model(config.model, config.data.spec).eval(), config.data.spec
    randomize(model)
    set_multipliers(model, plan_of(config), hparams=config.hparams.with_values(dict.fromkeys(scales, 2.0)))
    inputs = random_inputs(spec, 2)
    with torch.no_grad():
        logits = model(*inputs)
        write_plain(model, spec, tmp_path / "pretrained")
        assert distance(reloaded(tmp_path / "pretrained", spec.consumed_as)(*inputs).logits, logits) < 1e-4
        for name in scales if family != "modernbert-decoder" else ():  # each of them is seen in the logits
            values = {**dict.fromkeys(scales, 2.0), name: 1.0}
            set_multipliers(model, plan_of(config), hparams=config.hparams.with_values(values))
            assert distance(model(*inputs), logits) > 1e-3, name


def test_factors_that_happen_to_be_equal_leave_a_family_tied_that_multiplies_one_of_them(hf):
    rehearse(hf("t5", EXPORTED["t5"], scales=("temperature",)))  # 1/m_in and 1/temperature are 1/2 and 2


def test_what_cannot_be_exported_is_refused_before_training(hf):
    fields, scales = {**GROUPED, "num_local_experts": 2, "use_qk_norm": True}, ("attention_temperature",)
    with pytest.raises(PlanError, match=r"cannot be exported .* no query weights .* write model.export: false"):
        rehearse(hf("llama4_text", fields, scales=scales))
    rehearse(hf("llama4_text", fields, scales=scales, export=False))
    rehearse(hf("llama4_text", fields))


def test_an_export_that_loads_as_another_model_is_noticed(hf, monkeypatch):
    def changed(folder, takes):
        model = reloaded(folder, takes)
        model.get_output_embeddings().weight.data.mul_(1.01)
        return model

    monkeypatch.setattr("mutransfer.models.huggingface_export.reloaded", changed)
    with pytest.raises(PlanError, match="differ from the trained model's"):
        rehearse(hf("t5", EXPORTED["t5"]))


def test_no_export_without_the_wish(hf, tmp_path):
    assert not hf("gpt_neox", COMMON, export=False).model.exports
    assert hf("gpt_neox", COMMON).model.exports
