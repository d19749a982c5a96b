"""Models of the transformers library, as this project trains them.

Four things change in a model that transformers has made, and its code does not. Its attention multiplies queries by the
buffer `attention_scale` that a plan sets, through a function registered with transformers' attention interface. Numbers
inside it that follow the width have their values at the base width. Its norm gains become buffers. It returns its
logits. Weights keep their names.
"""

from __future__ import annotations

import functools
import inspect
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
from mutransfer.models.huggingface_config import config_at, first_line, transformers
from mutransfer.models.huggingface_facts import family_facts, is_norm
from mutransfer.models.huggingface_multipliers import hold_multipliers
from mutransfer.models.module import hand_on_logits
from mutransfer.parametrization.building import meta_construction
from mutransfer.parametrization.facts import carry
from mutransfer.private import attention_of

_HEAD_SIZES = ("qk_head_dim", "head_dim", "attention_head_size", "head_size", "key_value_proj_dim")
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
    "tokens": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING", "causal language model"),
    "masked tokens": ("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING", "model for masked tokens"),
    "token pairs": ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", "encoder–decoder"),
    "classes": ("AutoModelForImageClassification", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", "image classifier"),
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
    if not section.norm_gain:
        _fix_gains(model)
    base, wider = _two_widths(section.at_width(section.base_width).model_dump_json(), spec)
    hold_multipliers(model, base)
    heads = _scale_attention(model, base, section)
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
    head, mapping, what = _HEADS[takes]
    if hasattr(config, "is_decoder"):
        config.is_decoder = takes == "tokens"  # where next tokens are predicted, no token may see later ones
    classes = getattr(transformers(), mapping).get(type(config), None)
    if classes is None:
        raise ConfigError(
            f"model.config: transformers has no {what} of family {config.model_type}, and that is what data of {takes} "
            "trains"
        )
    if isinstance(classes, tuple):  # DeiT has one with a teacher too
        config.architectures = [classes[0].__name__]
    try:
        model: nn.Module = getattr(transformers(), head).from_config(
            config, attn_implementation=attention, dtype=torch.get_default_dtype()
        )
    except _ERRORS as error:
        raise ConfigError(f"model.config: transformers cannot make a {what} of it: {first_line(error)}") from None
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
    """Modules whose scale of q·k can be set: they take their attention from transformers' attention interface."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "scaling", 1.0), float)
        and head_size(module) is not None
        and _asks_the_interface(type(module))
    }


def head_size(module: nn.Module) -> int | None:
    """The head size of an attention module, where it says one."""
    return next((size for name in _HEAD_SIZES if isinstance(size := getattr(module, name, None), int)), None)


def own_scale(module: nn.Module) -> float:
    """What a family multiplies q·k by. ModernBERT keeps no number, and hands over 1/√head size."""
    scaling: float = getattr(module, "scaling", (head_size(module) or 1) ** -0.5)
    return scaling


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
        keywords["scaling"] = getattr(module, "scaling", 1.0)
    return inner(module, query, key, value, attention_mask, **keywords)


def _scale_attention(model: nn.Module, base: nn.Module, section: HuggingFaceSection) -> dict[str, int]:
    """Give every attention module a buffer for the scale of q·k, where the family lets it be set.

    Returns `{module: head size}`. With heads that keep their size nothing has to be scaled, and other families keep
    their attention as it is. What a family multiplies q·k by besides 1/√head size stays what it is at the base width.

    Raises:
        PlanError: heads widen, and the scale cannot be set.
    """
    found, others, own = attention_modules(model), attention_modules(base), attention_of(model)
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
        heads[name] = size = head_size(module) or 1
        module.register_buffer("attention_scale", torch.tensor(size**-0.5), persistent=False)
        if hasattr(module, "scaling"):
            module.scaling = own_scale(others[name]) * (head_size(others[name]) or 1) ** 0.5  # 1 of most families
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
