"""Models from a factory: their facts, what PEFT has added to them, and how they are built without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from mutransfer.errors import PlanError
from mutransfer.parametrization.facts import ModelFacts, facts_of
from mutransfer.parametrization.wrappers import pretrained, unwrapped

ModelFactory = Callable[[int], nn.Module | tuple[nn.Module, ModelFacts]]


@contextmanager
def meta_construction() -> Iterator[None]:
    """Modules and tensors made inside have shapes and no memory, and are made in no time."""
    with torch.device("meta"), _NoRandomInit():
        yield


class _NoRandomInit(TorchFunctionMode):
    """Skips `torch.nn.init`: on `meta` it fills nothing, and its first call there imports for seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def built(
    factory: ModelFactory, width: int, facts: ModelFacts | Callable[[int], ModelFacts] | None = None
) -> tuple[nn.Module, ModelFacts]:
    """The module of that width and its facts: given, returned beside the module, or carried by it.

    Raises:
        PlanError: the module carries more than one `ModelFacts`, or has a lazy layer.
    """
    made = factory(width)
    model, returned = made if isinstance(made, tuple) else (made, None)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise PlanError(
                f"{name}: belongs to a lazy layer, whose sizes are not known before data has passed through it; use "
                "the layer that is not lazy, with its sizes"
            )
    own = facts(width) if callable(facts) else facts or returned or facts_of(model)
    # A and B of LoRA are hidden: A, whose fan-in grows, has the lr ∝ 1/m_in, and B the lr at base width, as LoRA+ has
    # it (Hayou et al. 2024, arXiv 2402.12354). PEFT draws A with a std ∝ 1/√fan_in and starts B at zero.
    if kept := pretrained(model):
        down, up = ([name for name in kept if f".lora_{one}." in name and name.endswith(".weight")] for one in "AB")
        ranks = tuple(name.rpartition(".")[0] for name in down)  # which do not grow on purpose
        added = ModelFacts(roles=dict.fromkeys([*down, *up], "hidden"), as_made=tuple(kept), finite=ranks)
        own = added.extended(**dict(own))
    return unwrapped(model), own


def on_meta(
    factory: ModelFactory, width: int, facts: ModelFacts | Callable[[int], ModelFacts] | None
) -> tuple[nn.Module, ModelFacts]:
    """`built` on the `meta` device.

    Raises:
        PlanError: the model cannot be built there; as `built`.
    """
    try:
        with meta_construction():
            return built(factory, width, facts)
    except (RuntimeError, NotImplementedError) as error:
        raise PlanError(
            f"the model cannot be built at width {width} on the meta device, where tensors have no values: {error}"
        ) from error
