"""A trained model as a checkpoint that plain transformers loads: every multiplier folded into weights.

    readout     weight × forward multiplier / temperature, bias / temperature.
    embedding   weight × its gain and scale.
    queries     weight and bias (or the gain of their norm) × attention scale / transformers' own.

A weight that is embedding and readout at once cannot hold both factors, so the checkpoint of a tied model is untied.
"""

from __future__ import annotations

import copy
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import Tensor, nn

from mutransfer.config.data import DataSpec
from mutransfer.config.factory import said
from mutransfer.config.schema import RunConfig, TrainingSection
from mutransfer.errors import PlanError, UsageError
from mutransfer.files import disk_errors
from mutransfer.models import build_model, plan_of
from mutransfer.models.huggingface import make, own_scale, reloaded
from mutransfer.models.huggingface_check import TOLERANCE, distance, random_inputs, randomize, require_own_function
from mutransfer.models.huggingface_facts import ALONE, QUERY_NORM
from mutransfer.models.huggingface_multipliers import own_multipliers, token_tables
from mutransfer.parametrization.apply import INPUT_MULTIPLIER, MULTIPLIERS, OUTPUT_MULTIPLIER, set_multipliers
from mutransfer.parametrization.building import meta_construction
from mutransfer.parametrization.facts import facts_of

_EXAMPLES = 2
_FUSED = ("query_key_value", "c_attn", "qkv_proj", "Wqkv")
_REHEARSED = set[str]()
"""What has passed in this process: a sweep tries out its config several times."""
_SCALES = ("temperature", "attention_temperature", "embedding_scale", "position_scale")


def rehearse(config: RunConfig) -> None:
    """Refuse a model that is not its family's own function, or whose checkpoint could not be written after training.

    Raises:
        PlanError: which of the two, and why.
    """
    small = {"model": config.model.at_width(config.model.base_width), "training": TrainingSection(), "provenance": None}
    key = config.model_copy(update=small).model_dump_json()
    if key in _REHEARSED:
        return
    require_own_function(config)
    if config.model.exports:
        require_exportable(config)
    _REHEARSED.add(key)


def require_exportable(config: RunConfig) -> None:
    """Export the model once, at twice its base width and with random weights.

    Raises:
        PlanError: it cannot be exported.
    """
    section = config.model.at_width(2 * config.model.base_width)
    swept = () if config.search is None else config.search.space
    hparams = config.hparams.with_values({name: 0.5 for name in _SCALES if name in swept})
    small = config.model_copy(update={"model": section, "hparams": hparams, "search": None})
    model = build_model(section, config.data.spec)
    randomize(model)
    set_multipliers(model, plan_of(small), hparams=hparams)
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_plain(model, config.data.spec, Path(folder))
    except UsageError as error:
        raise PlanError(
            f"{section.label}: cannot be exported to plain transformers after training: {error}. To train it without "
            "that, write model.export: false"
        ) from None


def save_pretrained(config: RunConfig, weights: Path, folder: Path) -> None:
    """Write `folder` (config.json and safetensors) for `AutoModel….from_pretrained`.

    Args:
        config: of the trained run.
        weights: its `model.safetensors`.
        folder: must not be there yet; it appears whole or not at all.

    Its logits are compared on random examples first, after loading it.

    Raises:
        UsageError: the weights are of another model, `folder` is there already or cannot be written, or the
            attention of this family has nothing into which its scale can be folded.
    """
    if folder.exists():
        raise UsageError(f"{folder}: is there already; move it away to export anew")
    trained = build_model(config.model, config.data.spec)
    set_multipliers(trained, plan_of(config), hparams=config.hparams)
    try:
        load_model(trained, str(weights))
    except (OSError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"{weights}: cannot be read as the weights of this config's model: {first}") from None
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with disk_errors(folder):
            write_plain(trained, config.data.spec, partial)
            for file in partial.glob("*.safetensors"):
                file.chmod(0o644)  # the library lets the owner only read it
            partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_plain(trained: nn.Module, spec: DataSpec, folder: Path) -> None:
    """Write a model with its multipliers folded in, and load it again.

    Raises:
        UsageError: a factor has nothing to go into, or the logits differ.
    """
    trained.eval()
    inputs, difference, kind = random_inputs(spec, _EXAMPLES), math.inf, type(trained).__name__
    for by_head in (False, True):  # families order the rows of queries, keys and values in one matrix in two ways
        plain = _folded(trained, spec, by_head=by_head)
        plain.config.use_cache = spec.consumed_as in ("tokens", "token pairs")  # type: ignore[union-attr]
        plain.save_pretrained(folder)  # type: ignore[operator]  # a model of transformers
        del plain
        try:
            again = reloaded(folder, spec.consumed_as)
            again.config.use_cache = False  # type: ignore[union-attr]  # one pass over whole sequences needs none
            with torch.no_grad():
                difference = distance(again(*inputs).logits, trained(*inputs))
        except Exception as error:  # any that the family's own code raises
            raise UsageError(f"the exported {kind} cannot be loaded and run: {said(error)}") from None
        if difference < TOLERANCE:
            return
    raise UsageError(
        f"the logits of the exported {kind} differ from the trained model's by {difference:.2g} of their standard "
        "deviation, so nothing was written: this family does something with a scaled weight that is not known here"
    )


def _folded(trained: nn.Module, spec: DataSpec, *, by_head: bool) -> nn.Module:
    """The same function as a model of transformers without multipliers, once it is saved and loaded."""
    kept = {
        name: tensor
        for name, tensor in trained.state_dict(keep_vars=True).items()
        if name.rpartition(".")[2] not in MULTIPLIERS
    }
    state = {name: tensor.detach().clone() for name, tensor in kept.items()}
    config: Any = copy.deepcopy(trained.config)
    groups: dict[int, list[str]] = {}
    for name, tensor in kept.items():
        groups.setdefault(id(tensor), []).append(name)
    factors = _factors(trained, config, spec)
    if any(len({factors[name] for name in names if name in factors}) > 1 for names in groups.values()):
        config.tie_word_embeddings = False
        factors = _factors(trained, config, spec)
    for names in groups.values():
        own = {factors[name] for name in names if name in factors}
        for name in names:  # an alias without a module that multiplies it is what the others are
            factor = factors.get(name, next(iter(own), 1.0) if len(own) < 2 else 1.0)
            if factor != 1.0:
                state[name] *= factor
    plain = make(config, spec.consumed_as)
    _fold_attention(trained, plain, state, by_head=by_head)
    plain.load_state_dict(state)
    return plain


def _factors(model: nn.Module, config: Any, spec: DataSpec) -> dict[str, float]:
    """What each weight and bias of a layer with a multiplier is multiplied by: the plan's multipliers, and the ratio of
    a family's own at the base width, which the trained model has, to those at this width."""
    with meta_construction():
        plain = make(copy.deepcopy(config), spec.consumed_as)
    # T5 and its like multiply what the readout takes, some only where it is tied, and some tie it when they are loaded.
    loaded = type(config).from_dict(config.to_dict())
    (enters, leaves), (own_enters, own_leaves) = own_multipliers(model), own_multipliers(plain, loaded)
    head, tables, found = model.get_output_embeddings(), token_tables(model), dict[str, float]()  # type: ignore[operator]
    for name, module in model.named_modules(remove_duplicate=False):
        before, after = (float(getattr(module, key, 1.0)) for key in (INPUT_MULTIPLIER, OUTPUT_MULTIPLIER))
        ratio = enters / own_enters if name in tables else leaves / own_leaves if module is head else 1.0
        for parameter, _ in module.named_parameters(recurse=False):
            if ratio != 1.0 or any(hasattr(module, key) for key in (INPUT_MULTIPLIER, OUTPUT_MULTIPLIER)):
                found[f"{name}.{parameter}"] = after if parameter == "bias" else before * after * ratio
    return found


def _scale_norm(name: str, modules: dict[str, nn.Module], state: dict[str, Tensor], factor: float) -> None:
    """Multiply what a norm gives. Some families (Gemma) multiply by 1 + weight."""
    probe = copy.deepcopy(modules[name])
    with torch.no_grad():
        for one in (probe.weight, getattr(probe, "bias", None)):
            if isinstance(one, Tensor):
                one.zero_()
        offset = float(probe(torch.randn(1, 1, *probe.weight.shape)).abs().max() > 0)  # type: ignore[misc]
    weight = state[f"{name}.weight"]
    weight.add_(offset).mul_(factor).sub_(offset)
    if f"{name}.bias" in state:
        state[f"{name}.bias"] *= factor


def _fold_attention(model: nn.Module, plain: nn.Module, state: dict[str, Tensor], *, by_head: bool) -> None:
    modules, config = dict(model.named_modules()), model.config
    for name, size in facts_of(model).attention.items():
        module = modules[name]
        scale = float(module.attention_scale) * float(getattr(module, "scaling", 1.0))
        factor = scale / own_scale(plain.get_submodule(name))
        if math.isclose(factor, 1.0, rel_tol=1e-6):
            continue
        children = dict(module.named_children())
        # What comes before a norm has no say in its size.
        norm = next((f"{name}.{one}" for one in children if QUERY_NORM.fullmatch(one)), "")
        norms = [one for one in modules if f"{one}.".startswith(f"{norm}.") and f"{one}.weight" in state]
        layer = next((one for one in (*ALONE, *_FUSED) if one in children), None)
        if norm and norms:
            for one in norms:  # one, or one for each head
                _scale_norm(one, modules, state, factor)
        elif norm or layer is None:
            raise UsageError(
                f"{name}: its attention scale is {factor:g} times transformers' own, and {type(module).__name__} has "
                "no query weights of a kind known here to fold that into"
            )
        else:
            heads = 0 if layer in ALONE else int(config.num_attention_heads)  # type: ignore[union-attr,arg-type]
            rows = None if layer in ALONE else query_rows(children[layer], heads, size, by_head=by_head)
            transposed = type(children[layer]).__name__ == "Conv1D"
            for parameter, dimension in (("weight", 1 if transposed else 0), ("bias", 0)):
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
