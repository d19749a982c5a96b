"""Models of the transformers library, as this project trains them.

Three things change in a model that transformers has made, and its code does not. Its attention multiplies queries by
the buffer `attention_scale` that a plan sets, through a function registered with transformers' attention interface. Its
norm gains become buffers. It returns its logits. Weights keep their names.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mutransfer.config.data import DataSpec
from mutransfer.config.models import HuggingFaceSection
from mutransfer.errors import ConfigError, PlanError
from mutransfer.models.huggingface_config import config_at, dropouts, transformers
from mutransfer.models.module import hand_on_logits
from mutransfer.models.transformer import named
from mutransfer.parametrization.facts import ModelFacts, carry

ATTENTION = "mutransfer"
_HEAD_SIZES = ("head_dim", "attention_head_size", "head_size")
_POSITIONS = ("wpe", "position_embeddings", "embed_positions")
_QUERIES = ("q_proj", "query")


def build(section: HuggingFaceSection, spec: DataSpec) -> nn.Module:
    """The model at the section's width, with transformers' own random weights.

    Raises:
        ConfigError: the config cannot be read, or its fields do not fit the width.
        PlanError: the model has no attention that can be scaled, or attends in a way that is not known here.
    """
    config, masked = config_at(section, spec), spec.consumed_as == "masked tokens"  # type: ignore[arg-type]
    if hasattr(config, "is_decoder") and _is_encoder(config):
        config.is_decoder = not masked  # where next tokens are predicted, no token may see later ones
    devices: list[int] | None = [] if torch.get_default_device().type != "cuda" else None
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        model = make(config, ATTENTION, masked=masked)
    heads = _scale_attention(model, config, section)
    _require_full_attention(config, spec)
    if not section.norm_gain:
        _fix_gains(model)
    carry(model, _facts(model, section, heads))
    hand_on_logits(model, f"model kind huggingface ({section.config})")
    return model


def make(config: Any, attention: str, *, masked: bool = False) -> nn.Module:
    """The plain model of a transformers config: a causal one, or one that guesses masked tokens."""
    library = transformers()
    library.AttentionInterface.register(ATTENTION, _attention)
    try:
        head = library.AutoModelForMaskedLM if masked else library.AutoModelForCausalLM
        model: nn.Module = head.from_config(config, attn_implementation=attention, dtype=torch.get_default_dtype())
    except (ValueError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0]
        what = "model for masked tokens" if masked else "causal language model"
        raise ConfigError(f"model.config: transformers has no {what} of this config: {first}") from None
    return model


def attention_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that multiply queries by keys: those that transformers gives a number `scaling` and heads."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "scaling", None), float) and _head_size(module) is not None
    }


def _head_size(module: nn.Module) -> int | None:
    sizes = (getattr(module, name, None) for name in _HEAD_SIZES)
    return next((size for size in sizes if isinstance(size, int)), None)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **keywords: Any
) -> tuple[Tensor, None]:
    """transformers' own attention through torch's kernels, with queries (B, H, S, K) scaled by the plan's factor."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    scaled = query * module.attention_scale.to(query.dtype)  # type: ignore[operator]  # a buffer
    found: tuple[Tensor, None] = sdpa_attention_forward(module, scaled, key, value, attention_mask, **keywords)
    return found


def _scale_attention(model: nn.Module, config: Any, section: HuggingFaceSection) -> dict[str, int]:
    """Give every attention module the buffer that the plan sets, and take transformers' own factor out; the size of its
    heads by name."""
    heads: dict[str, int] = {}
    found = attention_modules(model)
    if not found:
        raise PlanError(
            f"model.config: {section.config}: {type(model).__name__} has no attention module with heads and a number "
            "`scaling`, so its attention cannot be scaled here; use kind: module with a factory that builds it"
        )
    for name, module in found.items():
        size, scaling = _head_size(module), module.scaling
        if size is None or not math.isclose(scaling, size**-0.5, rel_tol=1e-6):  # type: ignore[arg-type]  # float
            raise PlanError(
                f"{name}: scales q·k by {scaling:g} and not by 1/√{size}, for which there is no rule here "
                f"(look for an attention scale in {section.config}, and override it)"
            )
        heads[name] = size
        module.register_buffer("attention_scale", torch.tensor(float(scaling)), persistent=False)  # type: ignore[arg-type]
        module.scaling = 1.0  # type: ignore[assignment]
    return heads


def _require_full_attention(config: Any, spec: Any) -> None:
    """The attention here is causal or full; windows would be ignored silently."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise PlanError(f"model.config: layers of {', '.join(sorted(kinds))} are not known here")
    sliding = window is not None and (getattr(config, "layer_types", None) is None or "sliding_attention" in kinds)
    if sliding and window < spec.seq_len:
        raise PlanError(
            f"model.config: sliding_window {window} is shorter than data.seq_len {spec.seq_len}, and windows are not "
            "known here: override sliding_window, or take shorter sequences"
        )


def _is_encoder(config: Any) -> bool:
    """Whether it is of a family whose tokens see all others unless told that it is a decoder."""
    masked = transformers().MODEL_FOR_MASKED_LM_MAPPING
    return type(config) in masked


def _fix_gains(model: nn.Module) -> None:
    """Turn norm gains into buffers of the same name: they stay fixed, and a checkpoint still has them."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if "norm" in type(module).__name__.lower() and isinstance(weight, nn.Parameter) and weight.ndim == 1:
            del module.weight
            module.register_buffer("weight", weight.data)


def _facts(model: nn.Module, section: HuggingFaceSection, heads: dict[str, int]) -> ModelFacts:
    modules = dict(model.named_modules(remove_duplicate=False))
    queries = [name for name in modules if name.rpartition(".")[2] in _QUERIES]
    if section.zero_query and not queries:
        raise ConfigError(
            "model.zero_query: is impossible: queries, keys and values of this family are one matrix; leave it out"
        )
    table, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    tied = head is not None and head.weight is table.weight
    if tied and section.zero_readout:
        raise ConfigError("model.zero_readout: is impossible: the config ties the embedding to the readout")
    kept = dropouts(model.config)
    names = {module: name for name, module in modules.items()}
    facts = ModelFacts(
        readouts=None if head is None else (names[head],),
        positions=tuple(name for name in named(model, nn.Embedding) if name.rpartition(".")[2] in _POSITIONS),
        # A shared weight starts at 1/√base_width for the logits' sake; this gives embeddings std 1 again.
        gains={names[table]: math.sqrt(section.base_width)} if tied else {},
        init_std={f"{name}.weight": 0.0 for name in queries} if section.zero_query is not False else {},
        attention=heads,
        warnings=(f"model.dropout is on ({', '.join(kept)}): TP-V lists regularisation as not transferable",)
        if kept
        else (),
    )
    return facts.extended(roles=section.roles, finite=section.finite)
