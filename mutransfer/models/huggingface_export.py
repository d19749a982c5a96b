"""A trained model as a checkpoint that plain transformers loads: every multiplier folded into weights.

    readout     weight × forward multiplier / temperature, bias / temperature
    embedding   weight × its gain and scale
    queries     weight and bias (or the gain of their norm) × attention scale / transformers' own 1/√head size

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

from mutransfer.config.schema import RunConfig
from mutransfer.errors import UsageError
from mutransfer.models import build_model, plan_of
from mutransfer.models.huggingface import make
from mutransfer.parametrization.apply import INPUT_MULTIPLIER, OUTPUT_MULTIPLIER, set_multipliers
from mutransfer.parametrization.facts import facts_of

_TOLERANCE = 1e-4
"""Largest difference of logits between the two, over their RMS: fp32 rounding stays well below it."""
_TRIED = (2, 16)


def save_pretrained(config: RunConfig, weights: Path, folder: Path) -> None:
    """Write `folder` (config.json and safetensors) for `AutoModel….from_pretrained`.

    Args:
        config: of the trained run.
        weights: its `model.safetensors`.
        folder: must not be there yet; it appears whole or not at all.

    The logits of both are compared on random tokens first.

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
    plain = folded(trained)
    _require_equal(trained.eval(), plain.eval())
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        plain.save_pretrained(partial)  # type: ignore[operator]  # a model of transformers
        for file in partial.glob("*.safetensors"):
            file.chmod(0o644)  # the library lets the owner only read it
        partial.replace(folder)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror or error}") from None


def folded(trained: nn.Module) -> nn.Module:
    """The same function as a model of transformers without multipliers.

    Raises:
        UsageError: a factor has nothing to go into.
    """
    state = {name: tensor.detach().clone() for name, tensor in trained.state_dict().items()}
    factors = _factors(trained)
    config: Any = copy.deepcopy(trained.config)
    groups: dict[int, list[str]] = {}
    for name, tensor in trained.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), []).append(name)
    for names in groups.values():
        own = {factors[name] for name in names if name in factors}
        if len(own) > 1:
            config.tie_word_embeddings = False
        for name in names:  # an alias without a module that multiplies it is what the others are
            state[name] *= factors.get(name, next(iter(own), 1.0) if len(own) < 2 else 1.0)
    _fold_attention(trained, state)
    config.use_cache = "MaskedLM" not in type(trained).__name__
    plain = make(config, "masked tokens" if "MaskedLM" in type(trained).__name__ else "tokens")
    plain.load_state_dict(state)
    return plain


def _factors(model: nn.Module) -> dict[str, float]:
    """What each weight and bias of a layer with a multiplier is multiplied by."""
    found = {}
    for name, module in model.named_modules(remove_duplicate=False):
        before, after = (float(getattr(module, key, 1.0)) for key in (INPUT_MULTIPLIER, OUTPUT_MULTIPLIER))
        for parameter, _ in module.named_parameters(recurse=False):
            if any(hasattr(module, key) for key in (INPUT_MULTIPLIER, OUTPUT_MULTIPLIER)):
                found[f"{name}.{parameter}"] = after if parameter == "bias" else before * after
    return found


def _fold_attention(model: nn.Module, state: dict[str, Tensor]) -> None:
    modules = dict(model.named_modules())
    for name, size in facts_of(model).attention.items():
        module = modules[name]
        factor = float(module.attention_scale) * size**0.5  # a buffer
        if math.isclose(factor, 1.0, rel_tol=1e-6):
            continue
        children = dict(module.named_children())
        if "q_norm" in children:  # what comes before a norm has no say in its size
            _scale(state, [f"{name}.q_norm.weight"], factor, slice(None))
        elif "q_proj" in children or "query" in children:
            query = "q_proj" if "q_proj" in children else "query"
            _scale(state, [f"{name}.{query}.weight", f"{name}.{query}.bias"], factor, slice(None))
        elif type(children.get("c_attn")).__name__ == "Conv1D":  # (in, 3 · width): queries first
            queries = slice(int(module.split_size))  # an int
            state[f"{name}.c_attn.weight"][:, queries] *= factor
            state[f"{name}.c_attn.bias"][queries] *= factor
        else:
            raise UsageError(
                f"{name}: its attention scale is {factor:g} times transformers' own, and {type(module).__name__} has "
                "no query weights of a kind known here to fold that into"
            )


def _scale(state: dict[str, Tensor], names: list[str], factor: float, where: slice) -> None:
    for name in names:
        if name in state:
            state[name][where] *= factor


def _require_equal(trained: nn.Module, plain: nn.Module) -> None:
    config: Any = plain.config
    shape = (_TRIED[0], min(_TRIED[1], int(config.max_position_embeddings)))
    tokens = torch.randint(0, int(config.vocab_size), shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own, theirs = trained(tokens), plain(tokens).logits
    difference = float((own - theirs).abs().max() / own.square().mean().sqrt().clamp_min(1e-9))
    if not difference < _TOLERANCE:
        raise UsageError(
            f"the logits of the exported {type(plain).__name__} differ from the trained model's by {difference:.2g} of "
            "their size, so nothing was written: this family does something with a scaled weight that is not known here"
        )
