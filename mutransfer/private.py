"""Every private API of another library that is used here, in one place. tests/test_private.py fails when one changes.

Imports no torch at its top.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def usage_error() -> Any:
    """What typer raises for arguments that it cannot parse; it has `show`, and no public name."""
    import typer

    return next(one for one in typer.BadParameter.__mro__ if one.__name__ == "UsageError")


def dataset_fingerprint(dataset: Any) -> str:
    """The `datasets` library's hash of the rows; its public objects do not show it."""
    return str(dataset._fingerprint)


def attention_of(model: Any) -> str:
    """Name of the attention implementation that a model of transformers uses; it has a setter, and no public getter."""
    return str(model.config._attn_implementation)


@contextmanager
def hub_offline() -> Iterator[None]:
    """Keep huggingface_hub and datasets from asking the hub. Both read HF_HUB_OFFLINE at import only, so their modules'
    own flag is set."""
    modules: list[Any] = [importlib.import_module(name) for name in ("huggingface_hub.constants", "datasets.config")]
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def tensor_version(tensor: Tensor) -> int:
    """How often a tensor has been changed in place."""
    return int(tensor._version)


@contextmanager
def softmax_inputs(show: Callable[[Tensor], None]) -> Iterator[None]:
    """A context in which `show` is called with the input of every softmax, on whatever path it is reached."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    softmaxes = {torch.ops.aten._softmax.default, torch.ops.aten._safe_softmax.default}
    shown = [show]

    class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            if func in softmaxes:
                shown[0](args[0])
            return func(*args, **(kwargs or {}))

    try:
        with Mode():  # type: ignore[no-untyped-call]
            yield
    finally:
        shown.clear()  # a class lives until the garbage is collected, and what it holds does too
