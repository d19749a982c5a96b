"""Models of the transformers library, as this project trains them.

Four things change in a model that transformers has made, and its code does not. Its attention multiplies queries by the
buffer `attention_scale` that a plan sets, through a function registered with transformers' attention interface. Numbers
inside it that follow the width have their values at the base width. Its norm gains become buffers. It returns its
logits. Weights keep their names.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mutransfer.config.data import DataSpec
from mutransfer.config.data.base import PAD
from mutransfer.config.models import HuggingFaceSection
from mutransfer.errors import ConfigError, PlanError
from mutransfer.models.huggingface_config import config_at, dropouts, transformers
from mutransfer.models.module import hand_on_logits
from mutransfer.models.transformer import named
from mutransfer.parametrization.facts import ModelFacts, carry
from mutransfer.parametrization.layers import is_layer
from mutransfer.parametrization.rules import Role
from mutransfer.private import attention_of

_HEAD_SIZES = ("qk_head_dim", "head_dim", "attention_head_size", "head_size")
_POSITIONS = ("wpe", "position_embeddings", "embed_positions")
ALONE = ("q_proj", "query", "q_lin", "q_b_proj", "q")
"""Names of layers that give queries only."""
_FUSED = ("query_key_value", "c_attn", "qkv_proj", "Wqkv")
QUERIES = (*ALONE, *_FUSED)
"""Names of layers that give queries, by themselves or with keys and values."""
_PARTS = (*_FUSED, "x_proj", "in_proj", "kv_a_proj_with_mqa")
_ROUTER = re.compile(r"Router|Gate$|TopK|Hyper")
_PER_CHANNEL = re.compile(r"bias$|^A_log$|^scale$")
_HEADS = {
    "tokens": ("AutoModelForCausalLM", "causal language model"),
    "masked tokens": ("AutoModelForMaskedLM", "model for masked tokens"),
    "token pairs": ("AutoModelForSeq2SeqLM", "encoder–decoder"),
    "classes": ("AutoModelForImageClassification", "image classifier"),
}
# Whole numbers that follow the width, and that a forward pass makes a multiplier of.
_HELD = ("model_dim", "d_model_size")


def build(section: HuggingFaceSection, spec: DataSpec) -> nn.Module:
    """The model at the section's width, with transformers' own random weights.

    Raises:
        ConfigError: the config cannot be read, or its fields do not fit the width.
        PlanError: heads are to widen, and the scale of this family's attention is out of reach.
    """
    config = config_at(section, spec)
    model = _made(section, config, spec)
    if section.width != section.base_width:
        base = section.at_width(section.base_width)
        _hold_multipliers(model, _made(base, config_at(base, spec), spec))
    heads = _scale_attention(model, section)
    if not section.norm_gain:
        _fix_gains(model)
    carry(model, _facts(model, section, spec, heads))
    hand_on_logits(model, section.label)
    return model


def _made(section: HuggingFaceSection, config: Any, spec: DataSpec) -> nn.Module:
    devices: list[int] | None = [] if torch.get_default_device().type != "cuda" else None
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        return make(config, spec.consumed_as)


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
    except (ValueError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"model.config: transformers has no {what} of this config: {first}") from None
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


def _hold_multipliers(model: nn.Module, base: nn.Module) -> None:
    """Give every number inside a model that follows the width its value at the base width: √width on embeddings and
    the like would change the rule of the layers around it."""
    for module, other in zip(model.modules(), base.modules(), strict=True):
        for name, value in vars(other).items():
            own = vars(module).get(name)
            if (isinstance(value, float) and isinstance(own, float) and name != "scaling") or name in _HELD:
                setattr(module, name, value)
        for name, held in other.named_buffers(recurse=False):
            buffer = getattr(module, name)
            if held.numel() == 1 and held.is_floating_point() and not held.is_meta and not buffer.is_meta:
                buffer.copy_(held)


def _fix_gains(model: nn.Module) -> None:
    """Turn norm gains into buffers of the same name: they stay fixed, and a checkpoint still has them."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if "norm" in type(module).__name__.lower() and isinstance(weight, nn.Parameter) and weight.ndim == 1:
            del module.weight
            module.register_buffer("weight", weight.data)


def _roles(modules: dict[str, nn.Module]) -> dict[str, Role]:
    """Roles that shapes cannot tell: of experts in one tensor, of routers that hold a weight by themselves, of numbers
    per channel and state, and of matrices that give parts which grow together with parts which do not."""
    found: dict[str, Role] = {}
    for name, module in modules.items():
        kind, own = type(module).__name__, name.rpartition(".")[2]
        for parameter, tensor in module.named_parameters(recurse=False):
            role: Role | None = None
            if is_layer(module):
                if own in _PARTS:
                    role = "hidden" if tensor.ndim == 2 else "vector"
                elif isinstance(module, nn.Conv1d) and module.groups > 1:
                    role = "vector"
            elif "Experts" in kind and tensor.ndim == 3:
                role = "hidden"
            elif parameter in _POSITIONS:
                role = "input"
            elif _PER_CHANNEL.search(parameter):
                role = "vector"
            elif _ROUTER.search(kind) and tensor.ndim == 2:
                role = "output"
            if role is not None:
                found[f"{name}.{parameter}"] = role
    return found


def _facts(model: nn.Module, section: HuggingFaceSection, spec: DataSpec, heads: dict[str, int]) -> ModelFacts:
    modules = dict(model.named_modules(remove_duplicate=False))
    queries = [name for name in modules if name.rpartition(".")[2] in ALONE]
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
        positions=tuple(
            name
            for name in named(model, nn.Embedding)
            if name.rpartition(".")[2] in _POSITIONS and modules[name].weight.requires_grad
        ),
        roles=_roles(modules),
        # A shared weight starts at 1/√base_width for the logits' sake; this gives embeddings std 1 again.
        gains={names[table]: math.sqrt(section.base_width)} if tied else {},
        init_std={f"{name}.weight": 0.0 for name in queries} if section.zero_query is not False else {},
        attention=heads,
        warnings=(f"model.dropout is on ({', '.join(kept)}): TP-V lists regularisation as not transferable",)
        if kept
        else (),
    )
    if spec.consumed_as == "tokens" and type(model.config) in transformers().MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        facts = facts.extended(
            warnings=(
                f"{section.config} is an encoder–decoder family. On data of single sequences only its decoder is "
                "trained, without cross attention; data kind translation trains both",
            )
        )
    return facts.extended(roles=section.roles, finite=section.finite)
