"""Numbers inside models of the transformers library that follow the width: √hidden_size on embeddings (Gemma, CTRL and
others), 1/√d_model before the readout (T5).

They would change the rule of the layers around them. So a model has the base width's, and its export makes up for it.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import Tensor, nn

_SCALES = ("scalar_embed_scale", "embed_scale")
_WIDTHS = ("d_model_size", "model_dim")


def hold_multipliers(model: nn.Module, base: nn.Module) -> None:
    """Give a model the multipliers of the same at the base width, which may be on any device."""
    root = math.sqrt(base.config.hidden_size)  # type: ignore[union-attr,arg-type]
    others = dict(base.named_modules())
    for path, module in model.named_modules():
        other = others.get(path, module)
        rescales = ("hidden_size",) if getattr(other, "rescale_embeddings", False) else ()  # big_bird
        for name in (*_SCALES, *_WIDTHS, *rescales):
            if isinstance(value := vars(other).get(name), float | int):
                setattr(module, name, value)
        if isinstance(scale := getattr(other, "scalar_embed_scale", None), float):
            module.embed_scale.fill_(scale)  # a buffer
        if isinstance(normalizer := getattr(module, "normalizer", None), Tensor):  # recurrent_gemma
            normalizer.fill_(root)
        if type(module).__name__ == "AfmoeModel":  # it reads the width in its config
            module.config = copy.copy(module.config)
            module.config.hidden_size = other.config.hidden_size


def own_multipliers(model: nn.Module, config: Any = None) -> tuple[float, float]:
    """What a family multiplies embeddings by, and what it multiplies the input of the readout by.

    Args:
        config: for whether the readout's is on; the model's own when left out.
    """
    config, enters, leaves = model.config if config is None else config, 1.0, 1.0
    for module in model.modules():
        given = (getattr(module, name, None) for name in _SCALES)
        enters = next((one for one in given if isinstance(one, float)), enters)
        if isinstance(normalizer := getattr(module, "normalizer", None), Tensor):
            enters = math.sqrt(config.hidden_size) if normalizer.is_meta else float(normalizer)
        width = getattr(module, "d_model_size", None)
        if getattr(module, "rescale_embeddings", False):
            width = module.hidden_size
        if type(module).__name__ == "AfmoeModel" and config.mup_enabled:
            width = module.config.hidden_size  # type: ignore[union-attr]
        enters = math.sqrt(width) if isinstance(width, int) else enters
    width = getattr(model, "model_dim", None)
    if isinstance(width, int) and getattr(config, "scale_decoder_outputs", config.tie_word_embeddings):
        leaves = 1 / math.sqrt(width)
    return enters, leaves


def token_tables(model: nn.Module) -> dict[str, nn.Embedding]:
    """`{name: module}` of the embeddings of tokens; an encoder–decoder may have one for each part."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    shared = [one.weight for one in (table, head) if isinstance(one, nn.Embedding | nn.Linear)]
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Embedding)
        and (name.endswith("embed_tokens") or any(module.weight is weight for weight in shared))
    }
