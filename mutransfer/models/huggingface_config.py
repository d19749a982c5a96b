"""transformers configs: read from a file or the hub, and scaled to a width through their own fields."""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import sys
import textwrap
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

from mutransfer.config.base import MOST_DEPTH
from mutransfer.config.data import ClassSpec, DataSpec, PairSpec, TokenSpec
from mutransfer.config.data.base import PAD
from mutransfer.config.models import HuggingFaceSection
from mutransfer.config.models.huggingface import config_file
from mutransfer.errors import ConfigError, UsageError, nearest
from mutransfer.files import read_json
from mutransfer.hub import why_unreachable

# Sizes of transformers configs that follow width, by the names that families give them. What a config calls by its
# family's own name is found under the common one too (`attribute_map`).
_HIDDEN = re.compile(
    r"hidden_size|d_model|n_embd|emb_dim|dim|word_embed_proj_dim|(\w+_)?embed_dim|(input_|output_)?embedding_size|embedding_dim|"
    r"attention_hidden_size|lru_width|mamba_d_ssm"
)
_INNER = re.compile(
    r"(\w+_)?intermediate_size(_mlp)?|n_inner|d_inner|(\w+_)?ffn_dim|(\w+_)?hidden_dim|dff|dim_ff|d_ff|ffn_hidden_size|"
    r"feed_forward_size|(q|kv|o)_lora_rank|time_step_rank|mamba_dt_rank"
)
_HEADS = re.compile(r"(\w+_)?n(um)?_(\w+_)?heads?|num_heads|n_heads?|(\w+_)?(attention|key_value|kv|key|value)_heads")
_HEAD_DIM = re.compile(r"(\w+_)?head_dim|d_kv|d_head|dim_head|attention_head_size")
_NOT_TAKEN = ("model_type", "architectures", "dtype", "torch_dtype", "transformers_version")
_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Families whose positions are counted from pad_token_id + 1 on.
_OFFSET_POSITIONS = {
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "xmod", "data2vec-text",
    "longformer", "mpnet", "ibert", "esm", "luke",
}  # fmt: skip


@functools.cache
def transformers() -> ModuleType:
    """The transformers library.

    Raises:
        UsageError: it is not installed.
    """
    # transformers imports torchvision wherever that is installed, and one that does not fit torch (the two are
    # released in pairs, per CUDA version) would break models that need no images at all.
    with contextlib.suppress(ImportError):
        try:
            importlib.import_module("torchvision")
        except RuntimeError:
            sys.modules["torchvision"] = None  # type: ignore[assignment]  # reads as not installed
    try:
        found = importlib.import_module("transformers")
    except ImportError as error:
        raise UsageError(
            f"model kind huggingface needs the extra 'hf' ({error.name or 'transformers'} is missing): "
            "pip install 'mutransfer[hf]'"
        ) from None
    found.logging.set_verbosity_error()
    found.logging.disable_progress_bar()
    return found


def config_at(section: HuggingFaceSection, spec: DataSpec) -> Any:
    """The transformers config of a section at its width, for data of shape `spec`.

    Vocabulary and positions are the data's, special tokens are none, dropout is zero unless the section keeps it. The
    section's overrides have the last word.

    Raises:
        ConfigError: the config cannot be read, has no such field, or a field is not a whole number at this width.
    """
    plain = dict(_loaded(section.config))
    whole = _made(plain, section.config)
    kind, names = type(whole), dict(whole.attribute_map)  # {the name we use: the family's own}

    def own(given: Mapping[str, Any]) -> dict[str, Any]:
        return {str(names.get(name, name)): value for name, value in given.items()}

    known = {*whole.to_dict(), *names}
    for field, given in (("overrides", section.overrides), ("width_fields", section.width_fields)):
        for name in given:
            if name not in known:
                hint = nearest(name, sorted(known), "its fields are")
                raise ConfigError(f"model.{field}.{name}: is not a field of {kind.__name__}; {hint}")
    overrides = own(section.overrides)
    plain.update(overrides)
    if section.depth is not None:
        plain.update(own({"num_hidden_layers": section.depth}))
        plain.pop("layer_types", None)  # one per layer of the config's own depth; made anew
    whole = _made(plain, section.config)
    plain.update(own(_widths(section, whole)))
    try:
        _made({**plain, **dict.fromkeys(_SPECIAL_TOKENS)}, section.config)
        plain.update(dict.fromkeys(_SPECIAL_TOKENS))
    except ConfigError:  # a family that requires them; in a model without padding they have no effect
        plain.update(dict.fromkeys(_SPECIAL_TOKENS, 0))
    if isinstance(spec, PairSpec):
        plain["pad_token_id"] = PAD
    data = own({**_sizes(spec), "use_cache": False})
    if plain["model_type"] in _OFFSET_POSITIONS and "max_position_embeddings" in data:
        plain["pad_token_id"] = 1
        data["max_position_embeddings"] += 2
    plain.update({name: value for name, value in data.items() if name in known or name == "num_labels"})
    layers = getattr(whole, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > MOST_DEPTH:
        raise ConfigError(f"model.config: {section.config}: has {layers} layers; at most {MOST_DEPTH} are built")
    if not section.dropout:
        plain.update(dict.fromkeys(dropouts(whole), 0.0))
    return _made({**plain, **overrides}, section.config)


def _sizes(spec: DataSpec) -> dict[str, Any]:
    """Fields of a config that follow the data."""
    if isinstance(spec, ClassSpec):
        channels, *sides = spec.shape
        return {"num_channels": channels, "image_size": sides[0] if len(set(sides)) == 1 else sides,
                "num_labels": spec.classes}  # fmt: skip
    if isinstance(spec, PairSpec):
        length = max(spec.source_len, spec.target_len)
        return {"vocab_size": max(spec.source_vocab, spec.target_vocab), "max_position_embeddings": length}
    if isinstance(spec, TokenSpec):
        return {"vocab_size": spec.vocab_size, "max_position_embeddings": spec.seq_len}
    raise ConfigError(f"data: gives {spec.consumed_as}, which no model of the transformers library is trained on here")


def dropouts(config: Any) -> list[str]:
    """Fields of a config that are dropout rates above zero."""
    return [name for name, value in config.to_dict().items()
            if ("drop" in name or name.endswith("pdrop")) and isinstance(value, float) and value > 0]  # fmt: skip


def _widths(section: HuggingFaceSection, config: Any) -> dict[str, Any]:
    """`{field: value}` of what follows width; of fields that hold fields, as `{field: {…}}`, all of them."""
    hidden, fields = getattr(config, "hidden_size", None), config.to_dict()
    if not isinstance(hidden, int):
        parts = [name for name, value in fields.items() if isinstance(value, dict) and "hidden_size" in value]
        advice = f" (it is made of several models; give the config of one of them: {', '.join(parts)})" if parts else ""
        raise ConfigError(
            f"model.config: {section.config}: {type(config).__name__} has no hidden_size to scale{advice}"
        )
    common = {own: name for name, own in config.attribute_map.items()}
    return _scaled(section, fields, common, hidden)


def _scaled(
    section: HuggingFaceSection, fields: Mapping[str, Any], common: Mapping[str, str], hidden: int
) -> dict[str, Any]:
    width, found = section.width, dict[str, Any]()
    heads = _HEADS if section.grow == "heads" else _HEAD_DIM
    for name, value in fields.items():
        if not isinstance(name, str):  # of labels
            continue
        if isinstance(value, dict) and (inner := _scaled(section, value, {}, hidden)):
            found[name] = {**value, **inner}
            continue
        called = (name, common.get(name, name))
        rounded = any(_INNER.fullmatch(one) for one in called)
        given = next((section.width_fields[one] for one in called if one in section.width_fields), None)
        if given is not None:
            wanted = Fraction(given).limit_denominator(1 << 20) * width
        elif _is_size(value) and (rounded or any(_HIDDEN.fullmatch(one) or heads.fullmatch(one) for one in called)):
            wanted = Fraction(value * width, hidden)
            wanted = Fraction(round(wanted)) if rounded else wanted
        else:
            continue
        if wanted.denominator != 1 or wanted < 1:
            raise ConfigError(
                f"model.width: at width {width} {name} would be {float(wanted):g}, and has to be a whole number: "
                f"{_advice(name, value, hidden, wanted)}"
            )
        found[name] = int(wanted)
    return found


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _advice(name: str, value: Any, hidden: int, wanted: Fraction) -> str:
    least = f"take multiples of {wanted.denominator} times this width"
    if _HEADS.fullmatch(name) and isinstance(value, int):
        return f"{least}, grow: head_dim, or another {name} or head size in overrides (here {value} at {hidden})"
    return f"{least}, or give the field in width_fields"


@functools.lru_cache(maxsize=8)
def _loaded(name: str) -> Mapping[str, Any]:
    """The config as plain data."""
    file = config_file(name)
    if file is None:
        if name.startswith((".", "/", "~")) or name.endswith(".json") or name.count("/") > 1:
            raise ConfigError(f"model.config: {name}: no such file, and no folder with a config.json")
        file = _from_hub(name)
    found = read_json(file, dict[str, Any], advice="give the config.json of a transformers model", error=ConfigError)
    if not isinstance(found.get("model_type"), str):
        raise ConfigError(f"model.config: {file}: is not a transformers config: it has no model_type")
    return found


def _from_hub(name: str) -> Path:
    """The hub's config of that name: from its local cache, or fetched into it."""
    transformers()  # says which extra is missing
    import huggingface_hub

    try:
        cached = huggingface_hub.try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            return Path(cached)
        unreachable = why_unreachable(huggingface_hub.constants.ENDPOINT)
        if unreachable:
            raise ConnectionError(unreachable)
        return Path(huggingface_hub.hf_hub_download(name, "config.json"))
    except Exception as error:  # its client raises OSError, errors of its own and those of the network below it
        raise ConfigError(
            f"model.config: {name}: is not a local file or folder, and cannot be fetched from the Hugging Face hub "
            f"({first_line(error)}); give the path of its config.json"
        ) from None


def _made(plain: Mapping[str, Any], label: str) -> Any:
    """The config object of plain data."""
    given = {key: value for key, value in plain.items() if key not in _NOT_TAKEN}
    try:
        return transformers().AutoConfig.for_model(plain["model_type"], **given)
    except Exception as error:  # ValueError, TypeError, KeyError, and what its validation libraries raise
        if isinstance(error, UsageError):
            raise
        raise ConfigError(
            f"model.config: {label}: transformers cannot make a {plain['model_type']} of it: {first_line(error)}"
        ) from None


def first_line(error: Exception) -> str:
    """What an error of transformers says, without the lists that follow."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # Of an unknown model_type it lists all that it knows, some hundreds; of a validation the reason is the second line.
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    return textwrap.shorten(text, 300, placeholder=" …")
