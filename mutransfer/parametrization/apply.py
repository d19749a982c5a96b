"""The plan made real: initial weights, forward multipliers, optimizer parameter groups.

All three set absolute values, so applying a plan twice is applying it once. Multipliers are buffers of the
module they act on: training, evaluation and sampling see the same ones, and `torch.func` can stack them. They are in
its state dict, because they are part of the function: a model that has none refuses to load it. Every number comes from
`parametrization.settings`.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from mutransfer.config.hparams import Hparams
from mutransfer.config.load import first_problem
from mutransfer.errors import PlanError, nearest
from mutransfer.optimizers import OPTIMIZERS
from mutransfer.parametrization.layers import takes_multipliers
from mutransfer.parametrization.meaning import ATTENTION_SCALE, RELATIVE_SCALE, RESIDUAL_SCALE
from mutransfer.parametrization.normed import renew_estimates
from mutransfer.parametrization.plan import Plan
from mutransfer.parametrization.settings import Settings, settings
from mutransfer.parametrization.wrappers import adapted_layers, is_of_peft, named_modules, named_parameters

# Prefixed, so that they meet no attribute of the user's.
INPUT_MULTIPLIER, OUTPUT_MULTIPLIER = "mup_input_multiplier", "mup_output_multiplier"
MULTIPLIERS = (INPUT_MULTIPLIER, OUTPUT_MULTIPLIER, ATTENTION_SCALE, RESIDUAL_SCALE, RELATIVE_SCALE)
"""The buffers that a plan sets."""


def initialize(model: nn.Module, plan: Plan, *, seed: int = 0, hparams: Hparams | None = None, **values: Any) -> None:
    """Draw every initial weight as the plan says and install the forward multipliers.

    Each parameter has a random stream of its own, a function of (seed, name): adding a parameter changes no
    other. Parameters whose `init_std` is None stay as their module made them.

    Args:
        hparams: values at base width; or give them by name, as `init_scale=2.0`.

    Raises:
        PlanError: the plan is of another model or width; an hparam is unknown or out of range.
    """
    numbers = _settings(model, plan, hparams, values)
    padding = {module.weight: module.padding_idx for module in model.modules() if isinstance(module, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in named_parameters(model):
            std = numbers.init_std[name]
            if std is not None:
                _draw(parameter, std, _stream(seed, name), zero=padding.get(parameter))
    renew_estimates(model)
    _install(model, plan, numbers)


def set_multipliers(model: nn.Module, plan: Plan, *, hparams: Hparams | None = None, **values: Any) -> None:
    """Set the forward multipliers: µP's own, times the hparams'.

    The input of a layer is multiplied (so that its bias is not), and the output of readouts, embeddings and tables of
    positions. The buffers `attention_scale`, `residual_scale` and `relative_scale` of the modules that the model's
    `ModelFacts` name are filled.

    Args:
        hparams: values at base width; or give them by name, as `temperature=2.0`.

    Raises:
        PlanError: the plan is of another model or width; an hparam is unknown or out of range; a weight whose input
            has to be multiplied is outside any layer.
    """
    _install(model, plan, _settings(model, plan, hparams, values))


def parameter_groups(model: nn.Module, plan: Plan, *, lr: float, **values: Any) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer, parameters of equal settings together.

    Args:
        lr: η at base width. Schedulers that multiply each group's own lr keep the ratios.
        values: further hparams by name, as `weight_decay=0.1`, or `optimizer={"factory": …, "family": …}` for a plan
            of a class of your own. The groups have momentum and betas only if these are
            given; otherwise the optimizer's own defaults apply.

    Each group also has its `names`, for inspection, and its `family`: `adam`, `sgd`, or `muon`.

    Raises:
        PlanError: the plan is of another model or width; an hparam is unknown, out of range, or has no effect with the
            plan's optimizer.
    """
    groups = optimizer_groups(model, plan, _hparams({"optimizer": plan.optimizer, "lr": lr, **values}))
    for group in groups:
        if not {"beta1", "beta2"} & values.keys():
            group.pop("betas", None)
        if "momentum" not in values:
            group.pop("momentum", None)
    return groups


def optimizer_groups(model: nn.Module, plan: Plan, hparams: Hparams) -> list[dict[str, Any]]:
    """`parameter_groups` with every number, momentum and betas included.

    Raises:
        PlanError: as `parameter_groups`; no parameter is trained.
    """
    numbers = _settings(model, plan, hparams, {})
    groups: dict[Any, dict[str, Any]] = {}
    _require_plain_adapters(model)
    for name, parameter in named_parameters(model):
        if not parameter.requires_grad:
            continue
        own = numbers.optimizer[name]
        known = {key: value for key, value in asdict(own).items() if value is not None}
        group = groups.setdefault(own, {"params": [], "names": [], **known})
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise PlanError("the model has no parameter that is trained: all have requires_grad=False")
    return list(groups.values())


def _settings(model: nn.Module, plan: Plan, hparams: Hparams | None, values: Mapping[str, Any]) -> Settings:
    _require_fit(model, plan)
    if hparams is None:
        # Initial weights and multipliers do not depend on the optimizer, which may be a class of the user's own.
        registered = {"optimizer": plan.optimizer} if plan.optimizer in OPTIMIZERS else {}
        hparams = _hparams({**registered, **values})
    return settings(plan, hparams)


def _hparams(values: Mapping[str, Any]) -> Hparams:
    for name in values.keys() - Hparams.model_fields.keys():
        raise PlanError(f"there is no hparam {name}; {nearest(name, Hparams.model_fields)}")
    try:
        return Hparams.model_validate(values)
    except ValidationError as error:
        raise PlanError(first_problem(error)) from None


def _install(model: nn.Module, plan: Plan, numbers: Settings) -> None:
    modules = dict(named_modules(model, remove_duplicate=False))
    for name, own in numbers.modules.items():
        rule = plan.modules[name]
        if rule.weight is not None:
            if not takes_multipliers(modules[name]):
                raise PlanError(
                    f"{name or 'the model'}: its weight is not in a layer whose input can be multiplied, and the rule "
                    f"asks for an input × {own.input_multiplier:g}; make it the weight of an nn.Linear"
                )
            _set_buffer(modules[name], INPUT_MULTIPLIER, own.input_multiplier)
        if rule.hparam is not None or rule.gain != 1.0:
            _set_buffer(modules[name], OUTPUT_MULTIPLIER, own.output_multiplier)
    for buffer, scales in (
        (ATTENTION_SCALE, numbers.attention),
        (RESIDUAL_SCALE, numbers.residual),
        (RELATIVE_SCALE, numbers.relative),
    ):
        for name, scale in scales.items():
            getattr(modules[name], buffer).fill_(scale)
            if buffer not in modules[name].state_dict():
                _keep(modules[name], buffer, getattr(modules[name], buffer))
    _require_plain_adapters(model)


def _require_fit(model: nn.Module, plan: Plan) -> None:
    """Refuse a plan made for another model or width: silently training with it is the bug µP users fear."""
    own = plan.parameters
    shapes = {name: tuple(parameter.shape) for name, parameter in named_parameters(model, remove_duplicate=False)}
    if strangers := sorted(shapes.keys() ^ own.keys()):
        if of_peft := next(filter(is_of_peft, strangers), None):
            raise PlanError(
                f"{of_peft} of PEFT is "
                + ("not in the plan, which was made of the model before get_peft_model. Make the plan of the model "
                   "that is trained, plan_for(lambda width: get_peft_model(build(width), config), …)"
                   if of_peft in shapes else "in the plan and not in the model: call get_peft_model first")
            )  # fmt: skip
        raise PlanError(f"the plan is of another model: only one of the two has {', '.join(strangers[:5])}")
    for name, shape in shapes.items():
        if shape != tuple(own[name].shape):
            raise PlanError(
                f"the plan is of another width: {name} has shape {shape}, and the plan says {tuple(own[name].shape)}"
            )


def _require_plain_adapters(model: nn.Module) -> None:
    """Refuse LoRA on a layer with a multiplier: the adapter does not see it, and merged into the weight it would."""
    for name, layer in adapted_layers(model).items():
        for buffer, what in ((INPUT_MULTIPLIER, "input"), (OUTPUT_MULTIPLIER, "output")):
            if (factor := float(getattr(layer, buffer, 1.0))) != 1.0:
                raise PlanError(
                    f"{name}: LoRA is added to a layer whose {what} is multiplied by {factor:g}. The adapter is not "
                    "multiplied, so merging it into the weight would change the model. Take the layer out of "
                    "target_modules, or train it as a whole with modules_to_save"
                )


def _draw(parameter: nn.Parameter, std: float, seed: int, *, zero: int | None) -> None:
    """Fill a parameter; `zero` is a row of zeros, for padding."""
    values: Tensor = parameter
    mesh: Any = getattr(parameter, "device_mesh", None)
    if mesh is not None:  # sharded by fully_shard: every rank draws the whole and keeps its part
        values = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    if std == 0.0:
        values.zero_()
    else:
        values.normal_(0.0, std, generator=torch.Generator(values.device).manual_seed(seed))
    if zero is not None:
        values[zero].zero_()
    if mesh is not None:
        from torch.distributed.tensor import distribute_tensor

        placements: Any = parameter.placements  # type: ignore[attr-defined]
        parameter.copy_(distribute_tensor(values, mesh, placements, src_data_rank=None))


def _stream(seed: int, name: str) -> int:
    """Seed of one parameter's random stream, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=6).digest())


def _set_buffer(module: nn.Module, name: str, value: float) -> None:
    existing = getattr(module, name, None)
    if existing is not None:
        existing.fill_(value)
        return
    reference = next(module.parameters())
    if reference.is_meta:
        raise PlanError(
            "the model is on the meta device, where a multiplier does not have a value that to_empty would keep: call "
            "initialize or set_multipliers after the model was moved to a device"
        )
    dtype = torch.float64 if reference.dtype == torch.float64 else torch.float32
    _keep(module, name, torch.tensor(value, device=reference.device, dtype=dtype))
    if name == INPUT_MULTIPLIER:
        module.register_forward_pre_hook(_scale_input, with_kwargs=True)
    else:
        module.register_forward_hook(_scale_output)
    if "torch._dynamo" in sys.modules:  # code that was compiled before does not look for new hooks
        torch.compiler.reset()


def _keep(module: nn.Module, name: str, value: Tensor) -> None:
    """Make a multiplier a part of the state dict. A state dict without it leaves the value as it is."""

    module.register_buffer(name, value)
    module.register_load_state_dict_pre_hook(_fill_in)  # type: ignore[no-untyped-call]


def _fill_in(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    for name, buffer in module.named_buffers(recurse=False):
        if name in MULTIPLIERS:
            state.setdefault(prefix + name, buffer)


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
