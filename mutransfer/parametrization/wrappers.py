"""What torch.compile, DistributedDataParallel, PEFT and others put around a model or a layer. Imports no torch.

The one place that knows the names which they add. A plan has the names without them, so that it fits a model before and
after it is wrapped. Classes are known by their full name, because their packages need not be installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mutransfer.errors import PlanError

if TYPE_CHECKING:
    from torch import nn

# {class: the child that it wraps}
_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": "_checkpoint_wrapped_module",
    "peft.peft_model.PeftModel": "base_model",
    "peft.tuners.tuners_utils.BaseTuner": "model",
    "peft.tuners.tuners_utils.BaseTunerLayer": "base_layer",
}
_FLAT = "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"
_LORA_LAYER = "peft.tuners.lora.layer.LoraLayer"
_ADAPTED = ("peft.tuners.tuners_utils.BaseTuner", _LORA_LAYER)
# Modules of PEFT that have a rule here: LoRA, and copies of whole layers that are trained (`modules_to_save`).
_PEFT, _KNOWN_PEFT = "peft.", ("peft.peft_model", "peft.tuners.lora.", "peft.utils.other")


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside of what is wrapped around it as a whole."""
    while (child := _wrapped_child(type(model))) is not None:
        model = model.get_submodule(child)
    return model


def named_modules(model: nn.Module, *, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """As `model.named_modules`, without the wrappers and by the names without them.

    Raises:
        PlanError: a wrapper hides the shapes of the weights, or is a method of PEFT without a rule here.
    """
    plain: dict[str, str] = {}
    children: dict[str, str | None] = {}
    seen: set[nn.Module] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        _require_known(name, type(module))
        parent, _, own = name.rpartition(".")
        own = "" if own == children.get(parent) else own
        plain[name] = ".".join(filter(None, (plain.get(parent, ""), own)))
        children[name] = _wrapped_child(type(module))
        if children[name] is None and not (remove_duplicate and module in seen):
            seen.add(module)
            yield plain[name], module


def named_parameters(model: nn.Module, *, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
    """As `model.named_parameters`, by the names without wrappers."""
    seen: set[nn.Parameter] = set()
    for prefix, module in named_modules(model, remove_duplicate=remove_duplicate):
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter not in seen or not remove_duplicate:
                seen.add(parameter)
                yield f"{prefix}.{name}" if prefix else name, parameter


def adapted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """`{name: layer}` of the layers to which PEFT adds LoRA, without what it adds."""
    wrapped = {module.get_submodule("base_layer") for module in model.modules() if _LORA_LAYER in _names(type(module))}
    return {name: module for name, module in named_modules(model) if module in wrapped}


def pretrained(model: nn.Module) -> list[str]:
    """The parameters of models that PEFT adapts: their own, those that it adds, and its copies of whole layers."""
    adapted = (one for one in model.modules() if not _names(type(one)).isdisjoint(_ADAPTED))
    theirs = {parameter for one in adapted for parameter in one.parameters()}
    return [name for name, one in named_parameters(model, remove_duplicate=False) if one in theirs]


def is_of_peft(name: str) -> bool:
    """Whether a parameter of that name is there because of PEFT."""
    return any(part in f".{name}" for part in (".lora_", ".modules_to_save.", ".original_module."))


def _names(kind: type) -> set[str]:
    return {f"{one.__module__}.{one.__qualname__}" for one in kind.__mro__}


def _wrapped_child(kind: type) -> str | None:
    names = _names(kind)
    return next((child for name, child in _WRAPPERS.items() if name in names), None)


def _require_known(name: str, kind: type) -> None:
    if _FLAT in _names(kind):
        raise PlanError(
            f"{name or 'the model'}: FullyShardedDataParallel keeps weights in flat pieces, whose shapes do not tell a "
            "plan what they are; use torch.distributed.fsdp.fully_shard, which keeps names and shapes"
        )
    if kind.__module__.startswith(_PEFT) and not kind.__module__.startswith(_KNOWN_PEFT):
        raise PlanError(
            f"{name or 'the model'}: there is no rule for {kind.__name__} of PEFT; LoRA (peft.LoraConfig) and its "
            "modules_to_save have one"
        )
