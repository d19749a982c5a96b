"""Builds every language model family of the installed transformers small, compares it with its own eager model, plans
it at four times the width, and writes docs/families.md.

    python docs/families.py [FAMILY …]      # with families: prints their lines and writes nothing
"""

from __future__ import annotations

import itertools
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mutransfer.config.load import at_width
from mutransfer.config.schema import RunConfig
from mutransfer.errors import ConfigError, MutransferError, PlanError
from mutransfer.models import plan_of
from mutransfer.models.huggingface_check import require_own_function
from mutransfer.models.huggingface_config import transformers
from mutransfer.models.huggingface_export import require_exportable
from mutransfer.parametrization.plan import Plan

WIDTH = 64
PAGE = Path(__file__).with_name("families.md")
TEXT = {"kind": "text", "source": "python-stdlib", "seq_len": 32}
DATA: dict[str, dict[str, Any]] = {
    "causal": TEXT,
    "masked": {**TEXT, "mask": 0.15},
    "encoder–decoder": {"kind": "translation", "path": "pairs.jsonl", "source_field": "de", "target_field": "en",
                        "seq_len": 16, "tokenizer": "bytes"},
}  # fmt: skip
_MAPPINGS = {
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "encoder–decoder": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
}
_LAYERS = r"(num_)?(hidden_|encoder_|decoder_)?layers|n_layers?"
# Whole-number fields by what they count, and their value in a small model. The first pattern that matches counts.
_SIZES: list[tuple[str, int]] = [
    (r"(attention_)?hidden_size|d_model|n_embd|dim|emb_dim|(\w+_)?embedding_size|word_embed_proj_dim", WIDTH),
    (r"embedding_dim|lru_width", WIDTH),
    (r"(\w+_)?intermediate_size(_mlp)?|(\w+_)?ffn_dim|n_inner|d_inner|dff|dim_ff|d_ff|hidden_dim|ffn_hidden_size", 128),
    (r"feed_forward_size|mamba_d_ssm", 128),
    (_LAYERS + "|num_blocks", 2),
    (r"(\w+_)?key_value_heads|(num_)?kv_(n_)?heads", 2),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 8),
    (r"(\w+_)?heads|n_head", 4),
    (r"qk_(rope|nope)_head_dim|rotary_dim", 8),
    (r"(\w+_)?head_dim|(\w+_)?d_head|dim_head|attention_head_size|d_kv|kv_channels|head_size", 16),
    (r"\w*lora_rank", 16),
    (r"n_group|num_expert_group|topk_group|\w*shared_experts", 1),
    (r"\w*(per_tok|topk|top_k)\w*|moe_k", 2),
    (r"first_k_dense_replace", 1),
    (r"\w*experts", 8),
    (r"vocab_size", 256),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|model_max_length", 64),
    (r"time_step_rank|mamba_dt_rank", 4),
]
_OFTEN_NULL = r"head_dim|num_key_value_heads|num_experts_per_tok"
# What a small model of some families needs besides.
_OWN: dict[str, dict[str, Any]] = {
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "xlm": {"bos_token_id": 0, "pad_token_id": 2},
}


def families(kind: str) -> list[str]:
    """Every family of that kind, by its model_type."""
    transformers()  # before any of its modules is imported
    from transformers.models.auto import modeling_auto

    return list(getattr(modeling_auto, _MAPPINGS[kind]))


def small_configs(family: str) -> Iterator[dict[str, Any]]:
    """Small configs of a family, to be tried in turn: some need more layers, or other numbers of experts."""
    from transformers import CONFIG_MAPPING

    small = {**_small(CONFIG_MAPPING[family]().to_dict()), "model_type": family, **_OWN.get(family, {})}
    if "kv_lora_rank" in small and "num_key_value_heads" in small:
        small["num_key_value_heads"] = small["num_attention_heads"]
        small.pop("head_dim", None)
    for layers, experts in itertools.product((2, 4, 8), (8, 4)):
        yield {
            name: layers
            if re.fullmatch(_LAYERS, name) and name not in _OWN.get(family, {})
            else experts
            if name.endswith("experts") and value == 8
            else value
            for name, value in small.items()
        }


def _small(defaults: dict[Any, Any]) -> dict[str, Any]:
    small: dict[str, Any] = {}
    for name, value in defaults.items():
        size = next((size for pattern, size in _SIZES if re.fullmatch(pattern, str(name))), None)
        if isinstance(value, dict) and (inner := _small(value)):
            small[name] = {**value, **inner}
        elif size is not None and (type(value) is int or (value is None and re.fullmatch(_OFTEN_NULL, name))):
            small[name] = size
    return small


def verdict(kind: str, family: str, folder: Path) -> tuple[str, str, str]:
    """`equal`, `refused`, `not built` or `traceback`; whether it can be exported; and why not."""
    why = ""
    try:
        configs = list(small_configs(family))
    except Exception as error:  # any that transformers raises for its own defaults
        return "not built", "", _short(error)
    for number, fields in enumerate(configs):
        file = folder / f"{family}-{number}.json"
        file.write_text(json.dumps(fields), encoding="utf-8")
        model = {"kind": "huggingface", "config": str(file), "width": WIDTH, "base_width": WIDTH}
        data = {key: str(folder / value) if key == "path" else value for key, value in DATA[kind].items()}
        try:
            config = RunConfig.model_validate({"name": "small", "model": model, "data": data})
            require_own_function(config)
            plan = plan_of(at_width(config, 4 * WIDTH))
            return "equal", *_exported(config, plan)
        except ConfigError as error:
            why = why or _short(error)
        except MutransferError as error:
            if "cannot be run on" not in str(error):
                return "refused", "", _short(error)
            why = _short(error)
        except Exception as error:
            return "traceback", "", _short(error)
    return "not built", "", why


def _exported(config: RunConfig, plan: Plan) -> tuple[str, str]:
    scales = {"temperature": 2.0, "attention_temperature": 2.0 if plan.attention else 1.0}
    try:
        require_exportable(config.model_copy(update={"hparams": config.hparams.with_values(scales)}))
    except PlanError as error:
        return "no", _short(error)
    return "yes" if plan.attention else "attention as it is", ""


def _short(error: object) -> str:
    text = " ".join(str(error).split())
    text = re.sub(r"^.*?\.json\)?[:,] *", "", text)
    text = re.sub(r" \(/.*?\)", "", text)
    return text[:160].replace("|", "/")


def main() -> None:
    """Try every family, and write the page."""
    only, counts, rows = sys.argv[1:], Counter[tuple[str, str]](), []
    with tempfile.TemporaryDirectory() as name:
        for kind in DATA:
            for family in families(kind):
                if not only or family in only:
                    outcome, exported, why = verdict(kind, family, Path(name))
                    counts[kind, outcome] += 1
                    rows.append(f"| {family} | {kind} | {outcome} | {exported} | {why} |")
                    print(rows[-1], flush=True)
    if any(outcome == "traceback" for _, outcome in counts):
        sys.exit("a family ends in a traceback")
    if only:
        return
    outcomes = ("equal", "refused", "not built")
    totals = [" | ".join(["", kind, *(str(counts[kind, one]) for one in outcomes), ""]).strip() for kind in DATA]
    lines = f"""# Families of the transformers library

Made by `python docs/families.py` with transformers {transformers().__version__}. Every family was built small, at width
{WIDTH}, and compared with its own eager model on the same random weights.

- `equal`: the logits differ by less than 1e-4 of their standard deviation, no token sees a later one where next tokens
  are predicted, and the model is planned at four times the width without a setting.
- `refused`: the message says why.
- `not built`: the script could not make a small config. Many of these families are made of several models.
- exported: `yes` where a temperature and an attention temperature of 2 go into the weights of a checkpoint that
  transformers loads, with equal logits. `attention as it is`: the family's attention scale cannot be set, so it has no
  attention temperature, and heads cannot widen.

| kind | equal | refused | not built |
| --- | --- | --- | --- |
""".splitlines()
    lines += [
        *totals,
        "",
        "| family | kind | outcome | exported | why |",
        "| --- | --- | --- | --- | --- |",
        *sorted(rows),
        "",
    ]
    PAGE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
