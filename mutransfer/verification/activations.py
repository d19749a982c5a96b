"""Sizes of what a model computes: the output of every module, and attention logits, on one fixed probe.

Attention logits are the input of a softmax while a module runs. They are seen below `F.scaled_dot_product_attention`,
`nn.MultiheadAttention` and hand-written softmax alike, because inside `record` torch's attention runs as plain matrix
products (its MATH backend) and every softmax passes a dispatch mode.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mutransfer.parametrization.layers import is_layer
from mutransfer.private import softmax_inputs, tensor_version

ATTENTION_LOGITS = "attention_logits"
OUTPUT = "(output)"
# Hand-written masks add some very negative number to logits that are not to count.
_MASKED_BELOW = -1e4


@dataclass(frozen=True)
class Activation:
    """What one module gave on the probe."""

    values: Tensor
    """fp32, detached; masked attention logits are NaN."""
    trainable: bool
    """Whether it depends on any parameter that requires a gradient."""
    started: int
    """Position in the order in which modules began; smaller than `finished`, on the same clock."""
    finished: int
    update: Tensor | None = None
    """What the module's own weights have come to do since init, on the input it has now: its output less that of
    the same layer with its initial weights and its present bias. None of modules that are no layer, and where none was
    asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the module's output."""
        return tuple(self.values.shape)


def record(
    model: nn.Module,
    forward: Callable[[], Any],
    *,
    with_gradient: bool = False,
    initial: Mapping[str, Tensor] | None = None,
) -> dict[str, Activation]:
    """Run `forward`, which calls `model`, in eval mode, and keep every module's output.

    Args:
        with_gradient: build the autograd graph, so that `trainable` is known; without it `trainable` is true.
        initial: `{parameter: value at init}`, every name of tied ones; asks for `update`.

    Returns:
        `{module name: activation}` in the order in which modules finish. A module called more than once has
        `name#2`, …; one that only hands on what its last child gave (a container) is left out; the model itself is
        `(output)`. Attention logits are `name.attention_logits`. Modules without a floating-point tensor among
        their outputs, or with an empty one, and those that get none and have no parameter, are left
        out.
    """
    recorder = _Recorder(with_gradient=with_gradient, initial=initial or {})
    was_training = model.training
    model.eval()
    try:
        with recorder.attached(model), torch.set_grad_enabled(with_gradient):
            forward()
    finally:
        model.train(was_training)
    return recorder.found


def rms(values: Tensor) -> float:
    """Root mean square over what is not masked."""
    return _norm(values, 2)


def mean_abs(values: Tensor) -> float:
    """Mean absolute value over what is not masked: the size that the µP literature plots."""
    return _norm(values, 1)


def _norm(values: Tensor, order: int) -> float:
    """(mean |value|^order)^(1/order) in double precision, without a copy; NaN of nothing."""
    count, norm = values.numel(), float(torch.linalg.vector_norm(values, order, dtype=torch.float64))
    if math.isnan(norm):
        known = values[~values.isnan()]
        count, norm = known.numel(), float(torch.linalg.vector_norm(known, order, dtype=torch.float64))
    return norm / count ** (1 / order) if count else math.nan


@dataclass(frozen=True)
class _Call:
    """A module that is running."""

    name: str
    started: int
    inputs: tuple[Any, ...]
    keywords: dict[str, Any]


class _Recorder:
    def __init__(self, *, with_gradient: bool, initial: Mapping[str, Tensor]) -> None:
        self.found: dict[str, Activation] = {}
        self._with_gradient, self._initial = with_gradient, initial
        self._clock = 0
        self._running: list[_Call] = []
        self._again = False  # while a layer runs a second time, with its initial weights
        # What was handed out, so that a container's output is known to be its child's; `_version` tells an
        # output that was changed in place from the one before. The tensors are kept, so that no id is used twice.
        self._handed_out: dict[tuple[int, int], Tensor] = {}

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        fastpath = torch.backends.mha.get_fastpath_enabled()
        handles = []
        for name, module in model.named_modules():
            if ".parametrizations." in f".{name}.":
                continue  # it computes a weight and no activation
            # First of all hooks before and last of all behind: the input as given, the output as handed on.
            start, finish = self._starter(name or OUTPUT), self._finisher(name or OUTPUT)
            handles.append(module.register_forward_pre_hook(start, prepend=True, with_kwargs=True))
            handles.append(module.register_forward_hook(finish))
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            with ExitStack() as stack:
                if "torch._dynamo" in sys.modules:  # compiled code calls no hooks that came after it
                    stack.enter_context(torch.compiler.set_stance("force_eager"))
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
                stack.enter_context(softmax_inputs(self._softmax))
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)
            for handle in handles:
                handle.remove()
            self._handed_out.clear()

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _starter(self, name: str) -> Callable[..., None]:
        def start(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            if not self._again:
                self._running.append(_Call(name, self._tick(), inputs, keywords))

        return start

    def _finisher(self, name: str) -> Callable[..., None]:
        def finish(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._again:
                return
            call = self._running.pop()
            is_given = _first_float(call.inputs) is not None or _first_float(call.keywords) is not None
            if not is_given and next(module.parameters(), None) is None:
                return  # a constant, such as ALiBi's biases: its size may follow the number of heads
            tensor = _first_float(output)
            if tensor is None or not tensor.numel():
                return
            key = id(tensor), tensor_version(tensor)
            if key in self._handed_out:
                return
            self._handed_out[key] = tensor
            values = tensor.detach().float().clone()
            trainable = tensor.requires_grad or not self._with_gradient
            update = self._update(module, call, values)
            self._put(name, Activation(values, trainable, call.started, self._tick(), update))

        return finish

    def _update(self, module: nn.Module, call: _Call, values: Tensor) -> Tensor | None:
        if not self._initial or not is_layer(module):
            return None
        if not any(parameter.requires_grad for parameter in module.parameters()):
            return None  # frozen: there is no update to judge
        prefix = "" if call.name == OUTPUT else f"{call.name}."
        # Not biases: where activations are small, theirs is the larger part, and it hides what the weights do.
        weights = {name: parameter for name, parameter in module.named_parameters() if parameter.ndim > 1}
        now = {name: parameter.data for name, parameter in weights.items()}
        self._again = True
        try:
            # Not torch.func.functional_call: some packages keep data about a weight on the Parameter itself.
            for name, parameter in weights.items():
                parameter.data = self._initial[prefix + name]
            before = _first_float(module(*call.inputs, **call.keywords))
        finally:
            for name, parameter in weights.items():
                parameter.data = now[name]
            self._again = False
        return None if before is None else values - before.float()

    def _softmax(self, logits: Tensor) -> None:
        if self._again or not self._running or logits.ndim < 3:
            return
        name = self._running[-1].name
        values = logits.detach().float()
        values = values.masked_fill(values <= _MASKED_BELOW, torch.nan)
        own = ATTENTION_LOGITS if name == OUTPUT else f"{name}.{ATTENTION_LOGITS}"
        # Below autograd no tensor says that it needs a gradient; whatever feeds attention is taken to.
        self._put(own, Activation(values, True, self._tick(), self._tick()))

    def _put(self, name: str, activation: Activation) -> None:
        unique, count = name, 1
        while unique in self.found:
            count += 1
            unique = f"{name}#{count}"
        self.found[unique] = activation


def _first_float(output: Any) -> Tensor | None:
    """The first floating-point tensor in what a module returned."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    return next((tensor for tensor in map(_first_float, parts) if tensor is not None), None)
