"""Models of the transformers library, as this project trains them.

Three things change in a model that transformers has made, and its code does not. Its attention multiplies queries by
the buffer `attention_scale` that a plan sets, through a function registered with transformers' attention interface. Its
norm gains become buffers. It returns its logits. Weights keep their names.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mutransfer.config.data import DataSpec
from mutransfer.config.data.base import PAD
from mutransfer.config.models import HuggingFaceSection
from mutransfer.errors import ConfigError, PlanError
from mutransfer.models.huggingface_config import config_at, transformers
from mutransfer.models.huggingface_facts import family_facts, is_norm
from mutransfer.models.module import hand_on_logits
from mutransfer.parametrization.building import meta_construction
from mutransfer.parametrization.facts import carry
from mutransfer.private import attention_of

_HEAD_SIZES = ("qk_head_dim", "head_dim", "attention_head_size", "head_size")
# What families raise at fields that do not go together: they check little of what they are given.
_ERRORS = (
    ValueError,
    NotImplementedError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
)
_HEADS = {
    "tokens": ("AutoModelForCausalLM", "causal language model"),
    "masked tokens": ("AutoModelForMaskedLM", "model for masked tokens"),
    "token pairs": ("AutoModelForSeq2SeqLM", "encoder–decoder"),
    "classes": ("AutoModelForImageClassification", "image classifier"),
}


def build(section: HuggingFaceSection, spec: DataSpec) -> nn.Module:
    """The model at the section's width, with transformers' own random weights.

    Raises:
        ConfigError: the config cannot be read, or its fields do not fit the width.
        PlanError: heads are to widen, and the scale of this family's attention is out of reach.
    """
    config = config_at(section, spec)
    devices: list[int] | None = [] if torch.get_default_device().type != "cuda" else None
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        model = make(config, spec.consumed_as)
    heads = _scale_attention(model, section)
    if not section.norm_gain:
        _fix_gains(model)
    base, wider = _two_widths(section.at_width(section.base_width).model_dump_json(), spec)
    facts = family_facts(model, base, wider, section, heads)
    if spec.consumed_as == "tokens" and type(config) in transformers().MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        facts = facts.extended(
            warnings=(
                f"{section.config} is an encoder–decoder family. On data of single sequences only its decoder is "
                "trained, without cross attention; data kind translation trains both",
            )
        )
    carry(model, facts)
    hand_on_logits(model, section.label)
    return model


@functools.lru_cache(maxsize=4)
def _two_widths(section: str, spec: DataSpec) -> tuple[nn.Module, nn.Module]:
    """The plain model at the base width and at twice that, without memory."""
    base = HuggingFaceSection.model_validate_json(section)
    with meta_construction():
        small, large = (
            make(config_at(base.at_width(width), spec), spec.consumed_as) for width in (base.width, 2 * base.width)
        )
    return small, large


def make(config: Any, takes: str, attention: str | None = None) -> nn.Module:
    """The plain model of a transformers config.

    Args:
        takes: `consumed_as` of its data. With token pairs it is called with source and target ids, (B, S) and (B, T).
        attention: `eager` or `sdpa`; the family's default when left out.
    """
    head, what = _HEADS[takes]
    if hasattr(config, "is_decoder"):
        config.is_decoder = takes == "tokens"  # where next tokens are predicted, no token may see later ones
    try:
        model: nn.Module = getattr(transformers(), head).from_config(
            config, attn_implementation=attention, dtype=torch.get_default_dtype()
        )
    except _ERRORS as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"model.config: transformers has no {what} of this config: {first}") from None
    return _called_on(model, takes)


def reloaded(folder: Path, takes: str) -> nn.Module:
    """The model of an exported folder, as `make` gives one."""
    return _called_on(getattr(transformers(), _HEADS[takes][0]).from_pretrained(folder).eval(), takes)


def _called_on(model: nn.Module, takes: str) -> nn.Module:
    """The model, which takes the inputs that its data gives by position."""
    if takes == "token pairs":
        model.register_forward_pre_hook(_source_and_target, with_kwargs=True)
    return model


def _source_and_target(module: nn.Module, inputs: tuple[Tensor, ...], keywords: Any) -> tuple[Any, dict[str, Any]]:
    del module, keywords
    source, target = inputs
    return (), {"input_ids": source, "attention_mask": (source != PAD).long(), "decoder_input_ids": target}


def attention_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules whose scale of q·k can be set: they hand a number `scaling` to transformers' attention interface."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "scaling", None), float) and _asks_the_interface(type(module))
    }


def _asks_the_interface(kind: type[nn.Module]) -> bool:
    """Whether a forward pass takes its attention from the interface, and does not look at its name besides."""
    code = inspect.unwrap(kind.forward).__code__
    named = {one for const in code.co_consts for one in (const if isinstance(const, tuple) else (const,))}
    return "get_interface" in code.co_names and "sdpa" not in named


def _attend(
    inner: Callable[..., Any] | None,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **keywords: Any,
) -> Any:
    """The attention `inner` (default: the eager one of the module's own family) of queries (B, H, S, K), scaled by the
    plan's factor."""
    if inner is None:
        inner = sys.modules[type(module).__module__].eager_attention_forward
    scale = getattr(module, "attention_scale", None)
    if scale is not None:
        query = query * scale.to(query.dtype)
    return inner(module, query, key, value, attention_mask, **keywords)


def _scale_attention(model: nn.Module, section: HuggingFaceSection) -> dict[str, int]:
    """Give every attention module a buffer for the scale of q·k, where the family lets it be set.

    Returns `{module: head size}`. With heads that keep their size nothing has to be scaled, and other families keep
    their attention as it is.

    Raises:
        PlanError: heads widen, and the scale cannot be set.
    """
    found, own = attention_modules(model), attention_of(model)
    if found:
        _register(own)
        model.set_attn_implementation(_NAMES[own])  # type: ignore[operator]
    if not found or attention_of(model) != _NAMES[own]:
        if section.grow == "head_dim":
            raise PlanError(
                f"model.grow: head_dim is impossible with {section.config}: the attention of {type(model).__name__} "
                "scales q·k by a number that cannot be set from outside; use grow: heads, whose scale is constant"
            )
        return {}
    heads: dict[str, int] = {}
    for name, module in found.items():
        sizes = (getattr(module, field, None) for field in _HEAD_SIZES)
        size, scaling = next((size for size in sizes if isinstance(size, int)), 1), float(module.scaling)  # type: ignore[arg-type]
        if section.grow == "head_dim" and not math.isclose(scaling, size**-0.5, rel_tol=1e-6):
            raise PlanError(
                f"{name}: scales q·k by {scaling:g} and not by 1/√{size}, for which there is no rule where heads "
                f"widen; use grow: heads, or override the attention scale in {section.config}"
            )
        heads[name] = size
        module.register_buffer("attention_scale", torch.tensor(size**-0.5), persistent=False)
        module.scaling = scaling * size**0.5  # what is left: 1 of most families
    return heads


_NAMES = {"sdpa": "mutransfer-sdpa", "eager": "mutransfer-eager"}


@functools.cache
def _register(own: str) -> None:
    """Make the scaled form of an attention implementation known, with the mask of the one that it calls."""
    library = transformers()
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    inner = sdpa_attention_forward if own == "sdpa" else None
    library.AttentionInterface.register(_NAMES[own], functools.partial(_attend, inner))
    library.AttentionMaskInterface.register(_NAMES[own], ALL_MASK_ATTENTION_FUNCTIONS[own])


def _fix_gains(model: nn.Module) -> None:
    """Turn norm gains into buffers of the same name: they stay fixed, and a checkpoint still has them."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if is_norm(module) and isinstance(weight, nn.Parameter):
            del module.weight
            module.register_buffer("weight", weight.data)
