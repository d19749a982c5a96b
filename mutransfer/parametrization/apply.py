"""The plan made real: initial weights, forward multipliers, optimizer parameter groups.

All three set absolute values, so applying a plan twice is applying it once. Multipliers are buffers of the
module they act on, outside its state dict: training, evaluation and sampling see the same ones, `torch.func`
can stack them, and a checkpoint stays an ordinary state dict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from mutransfer.errors import PlanError
from mutransfer.parametrization.plan import Plan, Scaling, optimizer_settings
from mutransfer.parametrization.roles import is_layer

# Prefixed, so that they meet no attribute of the user's.
INPUT_MULTIPLIER, OUTPUT_MULTIPLIER = "mup_input_multiplier", "mup_output_multiplier"


def initialize(model: nn.Module, plan: Plan, *, seed: int = 0, init_scale: float = 1.0) -> None:
    """Draw every initial weight as the plan says and install the forward multipliers.

    Each parameter has a random stream of its own, a function of (seed, name): adding a parameter changes no
    other. Parameters whose `init_std` is None stay as their module made them.

    Args:
        init_scale: multiplies the std of every random weight.

    Raises:
        PlanError: the plan is of another model or width.
    """
    _require_fit(model, plan)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            std = plan.parameters[name].init_std
            if std is None:
                continue
            if std == 0.0:
                parameter.zero_()
            else:
                generator = torch.Generator(parameter.device).manual_seed(_stream(seed, name))
                parameter.normal_(0.0, std * init_scale, generator=generator)
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
    set_multipliers(model, plan)


def set_multipliers(
    model: nn.Module,
    plan: Plan,
    *,
    temperature: float = 1.0,
    attention_temperature: float = 1.0,
    embedding_scale: float = 1.0,
    position_scale: float = 1.0,
    relative_scale: float = 1.0,
) -> None:
    """Set the forward multipliers: µP's own, times the hparams'.

    A readout's input is multiplied by the plan's factor (so that a bias is not) and its output divided by
    `temperature`. The output of embeddings, or of first layers where there are none, is multiplied by
    `embedding_scale`; that of a module which the model lists in its attribute `position_modules` by `position_scale`
    instead. Buffers named `attention_scale` get the plan's scale over `attention_temperature`, buffers named
    `residual_scale` the depth rule's, and buffers named `relative_scale` (of a bias on attention logits) that hparam.

    Raises:
        PlanError: the plan is of another model or width.
    """
    _require_fit(model, plan)
    positions = getattr(model, "position_modules", ())
    modules = dict(model.named_modules(remove_duplicate=False))
    entries = plan.entrances
    for name, scaling in plan.parameters.items():
        owner = name.rpartition(".")[0]
        multiplied = scaling.role == "output" or scaling.forward != 1.0
        if multiplied and not _takes_input_multiplier(modules[owner]):
            what = "a readout outside any layer" if scaling.role == "output" else "outside a layer that can be hooked"
            raise PlanError(
                f"{name} is {what}, so its input cannot be multiplied by {scaling.forward:g}: make it the weight of "
                "an nn.Linear"
            )
        if multiplied:
            _set_buffer(modules[owner], INPUT_MULTIPLIER, scaling.forward)
        if scaling.role == "output":
            _set_buffer(modules[owner], OUTPUT_MULTIPLIER, 1.0 / temperature)
        elif name in entries and is_layer(modules[owner]):
            _set_buffer(modules[owner], OUTPUT_MULTIPLIER, position_scale if owner in positions else embedding_scale)
    for name, scale in plan.attention.items():
        _set_buffer(modules[name], "attention_scale", scale / attention_temperature, hook=False)
    for name, scale in plan.residual.items():
        _set_buffer(modules[name], "residual_scale", scale, hook=False)
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] == "relative_scale":
            buffer.fill_(relative_scale)


def parameter_groups(
    model: nn.Module,
    plan: Plan,
    *,
    lr: float,
    weight_decay: float = 0.0,
    eps: float = 1e-8,
    embedding_lr: float = 1.0,
    norm_gain_lr: float = 1.0,
    bias_lr: float = 1.0,
    adam_lr: float | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer, parameters of equal settings together.

    Args:
        lr: η at base width. Schedulers that multiply each group's own lr keep the ratios.
        weight_decay: λ at base width.
        eps: Adam's ε at base width; groups of SGD and Muon have none.
        embedding_lr: multiplies the lr of embeddings, or of first layers where there are none.
        norm_gain_lr: multiplies the lr of norm gains.
        bias_lr: multiplies the lr of biases.
        adam_lr: with a Muon plan, η of what AdamW trains; `lr` when left out.

    Each group also has its `names`, for inspection, and its `family`: `adam`, `sgd`, or `muon`.

    Raises:
        PlanError: the plan is of another model or width, or asks Adam for weight decay: coupled L2 has no
            width-independent rule (AdamW's decay has).
    """
    _require_fit(model, plan)
    if plan.optimizer == "adam" and weight_decay:
        raise PlanError("adam's coupled L2 has no width-independent rule; plan for optimizer adamw")
    found = optimizer_settings(
        plan,
        lr=lr,
        weight_decay=weight_decay,
        eps=eps,
        embedding_lr=embedding_lr,
        norm_gain_lr=norm_gain_lr,
        bias_lr=bias_lr,
        adam_lr=adam_lr,
    )
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        settings = {key: value for key, value in asdict(found[name]).items() if value is not None}
        settings["family"] = plan.parameters[name].family
        group = groups.setdefault(tuple(settings.values()), {"params": [], "names": [], **settings})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _require_fit(model: nn.Module, plan: Plan) -> None:
    """Refuse a plan made for another model or width: silently training with it is the bug µP users fear."""
    own: Mapping[str, Scaling] = {name: scaling for name, scaling in plan.parameters.items() if scaling.tied_to is None}
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    strangers = sorted(shapes.keys() ^ own.keys())
    if strangers:
        raise PlanError(f"the plan is of another model: only one of the two has {', '.join(strangers[:5])}")
    for name, shape in shapes.items():
        if shape != tuple(own[name].shape):
            raise PlanError(
                f"the plan is of another width: {name} has shape {shape}, planned was {tuple(own[name].shape)}"
            )


def _takes_input_multiplier(module: nn.Module) -> bool:
    """nn.MultiheadAttention computes with its weights by itself, where no hook of a layer is called."""
    return is_layer(module) and not isinstance(
        module, nn.MultiheadAttention | nn.modules.linear.NonDynamicallyQuantizableLinear
    )


def _stream(seed: int, name: str) -> int:
    """Seed of one parameter's random stream, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=6).digest())


def _set_buffer(module: nn.Module, name: str, value: float, *, hook: bool = True) -> None:
    existing = getattr(module, name, None)
    if existing is None:
        reference = next(module.parameters())
        dtype = torch.float64 if reference.dtype == torch.float64 else torch.float32
        tensor = torch.tensor(value, device=reference.device, dtype=dtype)
        module.register_buffer(name, tensor, persistent=False)
        if hook and name == INPUT_MULTIPLIER:
            module.register_forward_pre_hook(_scale_input, with_kwargs=True)
        elif hook:
            module.register_forward_hook(_scale_output)
    else:
        existing.fill_(value)


def _scale_input(
    module: nn.Module, inputs: tuple[Tensor, ...], keywords: dict[str, Any]
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    factor = getattr(module, INPUT_MULTIPLIER)
    if inputs:
        first, *rest = inputs
        return (first * factor.to(first.dtype), *rest), keywords
    given = keywords["input"]
    return inputs, {**keywords, "input": given * factor.to(given.dtype)}


def _scale_output(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    scaled: Tensor = output * getattr(module, OUTPUT_MULTIPLIER).to(output.dtype)
    return scaled
