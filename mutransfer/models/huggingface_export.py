"""A trained model as a checkpoint that plain transformers loads: every multiplier folded into weights.

    readout     weight × forward multiplier / temperature, bias / temperature.
    embedding   weight × its gain and scale.
    queries     weight and bias (or the gain of their norm) × attention scale / transformers' own 1/√head size.

A weight that is embedding and readout at once cannot hold both factors, so the checkpoint of a tied model is untied.
"""

from __future__ import annotations

import copy
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import Tensor, nn

from mutransfer.config.data import DataSpec
from mutransfer.config.schema import RunConfig
from mutransfer.errors import UsageError
from mutransfer.files import disk_errors
from mutransfer.models import build_model, plan_of
from mutransfer.models.huggingface import ALONE, QUERIES, make
from mutransfer.models.huggingface_check import TOLERANCE, distance, random_inputs
from mutransfer.parametrization.apply import INPUT_MULTIPLIER, OUTPUT_MULTIPLIER, set_multipliers
from mutransfer.parametrization.facts import facts_of
from mutransfer.parametrization.roles import meta_construction

_EXAMPLES = 2


def save_pretrained(config: RunConfig, weights: Path, folder: Path) -> None:
    """Write `folder` (config.json and safetensors) for `AutoModel….from_pretrained`.

    Args:
        config: of the trained run.
        weights: its `model.safetensors`.
        folder: must not be there yet; it appears whole or not at all.

    The logits of both are compared on random examples first.

    Raises:
        UsageError: the weights are of another model, `folder` is there already or cannot be written, or the
            attention of this family has nothing into which its scale can be folded.
    """
    if folder.exists():
        raise UsageError(f"{folder}: is there already; move it away to export anew")
    trained = build_model(config.model, config.data.spec)
    try:
        load_model(trained, str(weights))
    except (OSError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"{weights}: cannot be read as the weights of this config's model: {first}") from None
    set_multipliers(trained, plan_of(config), hparams=config.hparams)
    plain = folded(trained, config.data.spec)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with disk_errors(folder):
        plain.save_pretrained(partial)  # type: ignore[operator]  # a model of transformers
        for file in partial.glob("*.safetensors"):
            file.chmod(0o644)  # the library lets the owner only read it
        partial.replace(folder)


def folded(trained: nn.Module, spec: DataSpec) -> nn.Module:
    """The same function as a model of transformers without multipliers, in evaluation mode.

    Raises:
        UsageError: a factor has nothing to go into.
    """
    trained.eval()
    inputs, difference = random_inputs(spec, _EXAMPLES), math.inf
    for by_head in (False, True):  # families order the rows of queries, keys and values in one matrix in two ways
        plain = _folded(trained, spec, by_head=by_head)
        with torch.no_grad():
            difference = distance(plain(*inputs).logits, trained(*inputs))
        if difference < TOLERANCE:
            return plain
    raise UsageError(
        f"the logits of the exported {type(plain).__name__} differ from the trained model's by {difference:.2g} of "
        "their size, so nothing was written: this family does something with a scaled weight that is not known here"
    )


def _folded(trained: nn.Module, spec: DataSpec, *, by_head: bool) -> nn.Module:
    state = {name: tensor.detach().clone() for name, tensor in trained.state_dict().items()}
    config: Any = copy.deepcopy(trained.config)
    with meta_construction():
        unscaled = make(copy.deepcopy(config), spec.consumed_as)
    factors = _factors(trained, unscaled)
    groups: dict[int, list[str]] = {}
    for name, tensor in trained.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), []).append(name)
    for names in groups.values():
        own = {factors[name] for name in names if name in factors}
        if len(own) > 1:
            config.tie_word_embeddings = False
        for name in names:  # an alias without a module that multiplies it is what the others are
            state[name] *= factors.get(name, next(iter(own), 1.0) if len(own) < 2 else 1.0)
    _fold_attention(trained, state, by_head=by_head)
    config.use_cache = spec.consumed_as in ("tokens", "token pairs")
    plain = make(config, spec.consumed_as)
    plain.load_state_dict(state)
    return plain.eval()


def _factors(model: nn.Module, unscaled: nn.Module) -> dict[str, float]:
    """What each weight and bias of a layer with a multiplier is multiplied by: the plan's, and the ratio of a number in
    the trained model that is held at the base width's to that which transformers gives the width."""
    found = {}
    others = dict(unscaled.named_modules(remove_duplicate=False))
    for name, module in model.named_modules(remove_duplicate=False):
        before, after = (float(getattr(module, key, 1.0)) for key in (INPUT_MULTIPLIER, OUTPUT_MULTIPLIER))
        held, free = (_embed_scale(one) for one in (module, others[name]))
        for parameter, _ in module.named_parameters(recurse=False):
            if held != free or any(hasattr(module, key) for key in (INPUT_MULTIPLIER, OUTPUT_MULTIPLIER)):
                found[f"{name}.{parameter}"] = after if parameter == "bias" else before * after * held / free
    return found


def _embed_scale(module: nn.Module) -> float:
    """What an embedding of transformers multiplies its output by."""
    numbers = (getattr(module, name, None) for name in ("scalar_embed_scale", "embed_scale"))
    return next((number for number in numbers if isinstance(number, float)), 1.0)


def _fold_attention(model: nn.Module, state: dict[str, Tensor], *, by_head: bool) -> None:
    modules, heads = dict(model.named_modules()), int(model.config.num_attention_heads)  # type: ignore[union-attr,arg-type]
    for name, size in facts_of(model).attention.items():
        module = modules[name]
        factor = float(module.attention_scale) * size**0.5  # a buffer
        if math.isclose(factor, 1.0, rel_tol=1e-6):
            continue
        children = dict(module.named_children())
        layer = next((one for one in QUERIES if one in children), None)
        if "q_norm" in children:  # what comes before a norm has no say in its size
            layer, rows = "q_norm", None
        elif layer is None:
            raise UsageError(
                f"{name}: its attention scale is {factor:g} times transformers' own, and {type(module).__name__} has "
                "no query weights of a kind known here to fold that into"
            )
        else:
            rows = None if layer in ALONE else query_rows(children[layer], heads, size, by_head=by_head)
        for parameter, dimension in (("weight", 1 if type(children[layer]).__name__ == "Conv1D" else 0), ("bias", 0)):
            tensor = state.get(f"{name}.{layer}.{parameter}")
            if tensor is not None:
                every = torch.arange(tensor.shape[dimension])
                tensor.transpose(0, dimension)[every if rows is None else rows] *= factor


def query_rows(layer: nn.Module, heads: int, size: int, *, by_head: bool) -> Tensor:
    """Which outputs of a layer that gives queries, keys and values are queries.

    Args:
        by_head: each key-value head's queries, key and value lie together; else all queries come first.
    """
    bias, weight = getattr(layer, "bias", None), layer.weight
    outputs = bias.numel() if isinstance(bias, Tensor) else weight.shape[0]  # type: ignore[index]
    keys = (int(outputs) // size - heads) // 2
    if not by_head or keys < 1:
        return torch.arange(heads * size)
    queries, together = heads // keys * size, (heads // keys + 2) * size
    return (torch.arange(keys)[:, None] * together + torch.arange(queries)).flatten()
