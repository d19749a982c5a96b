"""Is the model that is trained the family's own?"""

from __future__ import annotations

import importlib.util
import json

import pytest

if importlib.util.find_spec("transformers") is None:
    pytest.skip("needs the extra hf", allow_module_level=True)

import torch

from mutransfer.errors import ConfigError, PlanError
from mutransfer.models import build_model, huggingface, plan_of
from mutransfer.models.huggingface_check import require_own_function
from mutransfer.models.huggingface_config import transformers
from mutransfer.training.learner import start_at
from tests.conftest import build

COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
          "intermediate_size": 64, "head_dim": 8}  # fmt: skip
MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
       "num_key_value_heads": 4}  # fmt: skip
CAUSAL = {
    "doge": {**COMMON, "tie_word_embeddings": False},  # a mask of its own
    "gpt_oss": {**COMMON, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},  # attention sinks
    "gemma2": {**COMMON, "query_pre_attn_scalar": 16},  # soft caps
    "gemma3_text": {**COMMON, "query_pre_attn_scalar": 8},  # √width on embeddings
    "granite": {**COMMON, "attention_multiplier": 0.3, "logits_scaling": 2.0, "embedding_multiplier": 3.0},
    "mistral": {**COMMON, "sliding_window": 4},
    "mixtral": {**COMMON, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**COMMON, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "deepseek_v3": {**COMMON, **MLA, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": False},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "gpt_neox": {**COMMON},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 2},
    "bart": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    "roberta": {**COMMON, "pad_token_id": 1},
}  # fmt: skip
MASKED = {
    "bert": COMMON,
    "roberta": {**COMMON, "pad_token_id": 1},
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64},
    "modernbert": {**COMMON, "global_attn_every_n_layers": 2, "local_attention": 8},
}
TOKENS = {"kind": "text", "source": "python-stdlib", "seq_len": 16}


@pytest.fixture
def hf(tmp_path, gpt):
    """Makes the config of a family on given data."""

    def made(family, fields, data=TOKENS, width=32, **model):
        path = tmp_path / f"{family}.json"
        path.write_text(json.dumps({"model_type": family, **fields}), encoding="utf-8")
        section = {"kind": "huggingface", "config": str(path), "width": width, "base_width": 32, **model}
        return build({**gpt, "data": data}, model=section, hparams={"lr": 0.01}, search=None)

    return made


@pytest.mark.parametrize("family", CAUSAL)
def test_causal_families_are_trained_as_they_are(hf, family):
    config = hf(family, CAUSAL[family])
    require_own_function(config)
    roles = [plan_of(hf(family, CAUSAL[family], width=width)).parameters for width in (32, 128)]
    assert {name: one.role for name, one in roles[0].items()} == {name: one.role for name, one in roles[1].items()}


@pytest.mark.parametrize("family", MASKED)
def test_masked_families_are_trained_as_they_are(hf, family):
    config = hf(family, MASKED[family], {**TOKENS, "mask": 0.2})
    require_own_function(config)
    plan_of(hf(family, MASKED[family], {**TOKENS, "mask": 0.2}, width=64))


def test_a_mask_that_is_left_out_is_noticed(hf, monkeypatch):
    monkeypatch.setattr(transformers().AttentionMaskInterface, "register", lambda name, mask: None)
    monkeypatch.setattr(huggingface, "_NAMES", {"sdpa": "unmasked-sdpa", "eager": "unmasked-eager"})
    huggingface._register.cache_clear()
    with pytest.raises(PlanError, match=r"doge.json.*differ from those of the family's own|is not causal"):
        require_own_function(hf("doge", CAUSAL["doge"]))
    huggingface._register.cache_clear()


def test_a_scale_that_is_wrong_is_noticed(hf, monkeypatch):
    scaled = huggingface._scale_attention

    def twice(model, base, section):
        found = scaled(model, base, section)
        for module in huggingface.attention_modules(model).values():
            module.attention_scale.mul_(2)
        return found

    monkeypatch.setattr(huggingface, "_scale_attention", twice)
    with pytest.raises(PlanError, match="the logits differ from those of the family's own eager model"):
        require_own_function(hf("mistral", CAUSAL["mistral"]))


def test_a_family_that_sees_ahead_is_refused(hf):
    fields = {"d_model": 32, "n_layer": 1, "n_head": 4, "d_head": 8, "d_inner": 64}
    with pytest.raises(PlanError, match="XLNetLMHeadModel is not causal"):
        require_own_function(hf("xlnet", fields))


OWN_MULTIPLIERS = {
    "gemma3_text": CAUSAL["gemma3_text"],
    "afmoe": {
        **COMMON,
        "num_experts": 4,
        "num_dense_layers": 1,
        "moe_intermediate_size": 32,
        "mup_enabled": True,
        "num_experts_per_tok": 2,
    },
    "big_bird": {**COMMON, "rescale_embeddings": True, "attention_type": "original_full"},
    "biogpt": {**COMMON, "scale_embedding": True},
    "ctrl": {"n_embd": 32, "n_layer": 1, "n_head": 4, "dff": 64},
    "recurrent_gemma": {**COMMON, "lru_width": 32},
}


@pytest.mark.parametrize("family", OWN_MULTIPLIERS)
def test_numbers_that_follow_the_width_act_as_at_the_base_width(hf, family):
    sizes = []
    for width in (32, 128):
        config = hf(family, OWN_MULTIPLIERS[family], width=width)
        require_own_function(config)
        model = build_model(config.model, config.data.spec)
        start_at(model, plan_of(config), config)
        block = next(one for name, one in model.named_modules() if name.endswith((".0", "embeddings.LayerNorm")))
        block.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].std().item()))
        with torch.no_grad():
            model(torch.arange(16)[None])
    assert 0.5 < sizes[0] < 2
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_routers_and_experts_have_rules_without_a_setting(hf):
    plan = plan_of(hf("mixtral", CAUSAL["mixtral"], width=128))
    router = plan.parameters["model.layers.0.mlp.gate.weight"]
    assert (router.role, router.forward, router.lr, router.init_std) == (
        "output",
        1.0,
        0.25,
        pytest.approx(32**-0.5 / 4),
    )
    experts = plan.parameters["model.layers.0.mlp.experts.gate_up_proj"]
    assert (experts.role, experts.m_in, experts.m_out, experts.lr) == ("hidden", 4, 4, 0.25)


@pytest.mark.parametrize(
    ("family", "fields", "order"),
    [
        ("gpt_oss", {**CAUSAL["gpt_oss"], "intermediate_size": 48}, "in_out"),
        (
            "llama4_text",
            {**COMMON, "num_local_experts": 4, "intermediate_size": 48, "interleave_moe_layer_step": 1},
            "in_out",
        ),
        ("mixtral", {**CAUSAL["mixtral"], "intermediate_size": 48}, "out_in"),
    ],
)
def test_experts_have_the_fan_in_that_their_code_multiplies(hf, family, fields, order):
    experts = {
        name.rpartition(".")[2]: one
        for name, one in plan_of(hf(family, fields, width=128)).parameters.items()
        if ".experts." in name and len(one.shape) == 3
    }
    up, down = experts["gate_up_proj"], experts["down_proj"]
    assert up.shape == ((4, 128, 384) if order == "in_out" else (4, 384, 128))
    assert (up.role, up.fan_in, up.base_init_std, up.lr) == ("hidden", 128, pytest.approx(32**-0.5), 0.25)
    assert (down.role, down.fan_in, down.base_init_std, down.lr) == ("hidden", 192, pytest.approx(48**-0.5), 0.25)


def test_experts_of_constant_size_are_readouts_and_entrances_of_their_own(hf):
    config = hf("qwen3_moe", CAUSAL["qwen3_moe"], width=128, overrides={"moe_intermediate_size": 24})
    experts = {name.rpartition(".")[2]: one for name, one in plan_of(config).parameters.items() if ".0.mlp.exp" in name}
    up, down = experts["gate_up_proj"], experts["down_proj"]
    assert (up.role, up.fan_in, up.lr, up.init_std) == ("output", 128, 0.25, pytest.approx(32**-0.5 / 4))
    assert (down.role, down.fan_in, down.lr, down.init_std) == ("input", 24, 1.0, pytest.approx(24**-0.5))


def test_normalised_queries_do_not_start_at_zero(hf):
    fields = CAUSAL["gemma3_text"]
    assert plan_of(hf("gemma3_text", fields)).parameters["model.layers.0.self_attn.q_proj.weight"].init_std > 0
    with pytest.raises(ConfigError, match="zero_query: is impossible: the queries of this family are normalised"):
        plan_of(hf("gemma3_text", fields, zero_query=True))
    latent = plan_of(hf("deepseek_v3", CAUSAL["deepseek_v3"])).parameters  # the norm is before the query weights
    assert latent["model.layers.0.self_attn.q_b_proj.weight"].init_std == 0.0


def test_heads_that_widen_need_a_scale_that_can_be_set(hf):
    with pytest.raises(PlanError, match=r"grow: head_dim is impossible.*use grow: heads"):
        plan_of(hf("bloom", CAUSAL["bloom"], grow="head_dim"))


def test_an_encoder_decoder_on_plain_text_says_that_it_is_a_decoder(hf):
    assert any("only its decoder is trained" in one for one in plan_of(hf("bart", CAUSAL["bart"])).warnings)


def test_overrides_have_the_last_word(hf):
    config = hf("roberta", CAUSAL["roberta"], overrides={"pad_token_id": 5, "max_position_embeddings": 40})
    own = build_model(config.model, config.data.spec).config
    assert (own.pad_token_id, own.max_position_embeddings) == (5, 40)


def test_image_classifiers(hf):
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
              "patch_size": 4}  # fmt: skip
    config = hf("vit", fields, {"kind": "digits"})
    require_own_function(config)
    plan = plan_of(hf("vit", fields, {"kind": "digits"}, width=64))
    assert plan.parameters["classifier.weight"].role == "output"


def test_encoder_decoders_read_pairs(hf):
    from mutransfer.config.data.base import PairSpec

    fields = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "tie_word_embeddings": False}
    model = build_model(hf("t5", fields).model, PairSpec(50, 50, 6, 5))
    assert model(torch.randint(1, 50, (2, 6)), torch.randint(1, 50, (2, 5))).shape == (2, 5, 50)
