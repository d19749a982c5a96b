"""`torch.nn.functional.linear` through oneDNN where that is twice as fast as the library torch calls by default.

torch's x86 wheels multiply fp32 matrices with MKL, which leaves AVX-512 unused on processors that are not Intel's;
oneDNN, in the same wheels, uses it. Which of the two computes is a function of the processor, the dtype and the shape
alone, so that a run repeated on one machine gives the same bits.

Shapes: N members of a pack; x (…, I) and weight (O, I) give (…, O).
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Multiplications in one product from which oneDNN repays its calls (measured: 64³ does not, 64·256² does).
_WORTHWHILE = 1 << 21

LinearGradients = tuple[Tensor | None, Tensor | None, Tensor | None]


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this is an AVX-512 processor that MKL does not know for one, and this torch has both libraries."""
    if platform.machine() not in ("x86_64", "AMD64") or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not both:
        return False
    info = Path("/proc/cpuinfo")
    vendor = info.read_text(errors="replace") if info.exists() else platform.processor()
    return "GenuineIntel" not in vendor and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias, (…, I) → (…, O)."""
    if not _onednn_takes(x, weight):
        return F.linear(x, weight, bias)
    out: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` under `torch.func.vmap`."""
    if torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight, bias)  # autocast casts torch's own function only
    out: Tensor = _PackedLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


def _onednn_takes(x: Tensor, weight: Tensor) -> bool:
    """Whether the product of x (…, I) and weight (O, I) pays on oneDNN."""
    return x.numel() * weight.shape[0] >= _WORTHWHILE and _onednn_fits(x, weight)


def _onednn_fits(x: Tensor, weight: Tensor) -> bool:
    """Whether products of x and weight can run on oneDNN, and large ones pay there."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and onednn_is_faster()
        and not torch.is_autocast_enabled("cpu")
    )


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a · bᵀ + bias of matrices, in any memory layout."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return out


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _product(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)


def _backward(ctx: Any, grad: Tensor) -> LinearGradients:
    x, weight = ctx.saved_tensors
    rows = grad.reshape(-1, grad.shape[-1])
    want_x, want_weight, want_bias = ctx.needs_input_grad
    return (
        _product(rows, weight.t()).view(x.shape) if want_x else None,
        _product(rows.t(), x.reshape(-1, x.shape[-1]).t()) if want_weight else None,
        rows.sum(0) if want_bias else None,
    )


class _Linear(torch.autograd.Function):
    """One linear layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(…, I) → (…, O)."""
        ctx.save_for_backward(x, weight)
        return _forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> LinearGradients:
        """Gradients of x, weight and bias."""
        return _backward(ctx, grad)


class _PackedLinear(torch.autograd.Function):
    """`_Linear` with a batching rule. It needs `setup_context`, for which torch binds a signature at every call."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(…, I) → (…, O)."""
        return _forward(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        """Keep what the gradient needs."""
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> LinearGradients:
        """Gradients of x, weight and bias."""
        return _backward(ctx, grad)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        """The layers of the members of a pack."""
        size = info.batch_size

        def first(tensor: Tensor, dim: int | None) -> Tensor:
            return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)

        if in_dims[1] is None and in_dims[2] is None:  # the members share the layer: their rows are rows
            return linear(first(x, in_dims[0]), weight, bias), 0
        weight, bias = first(weight, in_dims[1]), None if bias is None else first(bias, in_dims[2])
        if in_dims[0] is None and _onednn_fits(x, weight):  # whatever their number: a member's bits do not depend on it
            return _StackedOnOne.apply(x, weight, bias), 0  # type: ignore[no-untyped-call]
        return _Stacked.apply(first(x, in_dims[0]), weight, bias), 0  # type: ignore[no-untyped-call]


class _Stacked(torch.autograd.Function):
    """N layers on inputs of their own: x (N, …, I), weight (N, O, I), bias (N, O). Gradients lie in memory as their
    weights do, which the transposed products that autograd would choose do not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(N, …, I) → (N, …, O)."""
        ctx.save_for_backward(x, weight)
        out = _products(_rows(x), weight)
        if bias is not None:
            out += bias[:, None]
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> LinearGradients:
        """Gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        rows, grads = _rows(x), _rows(grad)
        want_x, want_weight, want_bias = ctx.needs_input_grad
        return (
            _laid_out_as(rows, grads, weight).view(x.shape) if want_x else None,
            _products(grads.mT, rows.mT) if want_weight else None,
            grads.sum(1) if want_bias else None,
        )


class _StackedOnOne(torch.autograd.Function):
    """N layers on one input: x (…, I), weight (N, O, I), bias (N, O). The layers lie below each other, so that this is
    one large product where `_Stacked` has N small ones; what comes out lies in memory by column."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """→ (N, …, O)."""
        ctx.save_for_backward(x, weight)
        rows = x.reshape(-1, x.shape[-1])
        out = _product(weight.flatten(0, 1), rows).view(*weight.shape[:2], len(rows)).mT
        if bias is not None:
            out += bias[:, None]
        return out.view(len(weight), *x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> LinearGradients:
        """Gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        rows, grads = x.reshape(-1, x.shape[-1]), _rows(grad)
        columns = grads.mT.flatten(0, 1)
        want_x, want_weight, want_bias = ctx.needs_input_grad
        return (
            _product(columns.t(), weight.flatten(0, 1).t()).view(x.shape) if want_x else None,
            _product(columns, rows.t()).view(weight.shape) if want_weight else None,
            grads.sum(1) if want_bias else None,
        )


def _rows(x: Tensor) -> Tensor:
    """(N, …, I) as (N, rows, I)."""
    return x.reshape(len(x), -1, x.shape[-1])


def _laid_out_as(rows: Tensor, grads: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `rows` (N, rows, I), which lies in memory as they do: the next operation reads both at once."""
    if rows.stride(-1) == 1:
        return _products(grads, weight.mT)
    return _products(weight.mT, grads).mT


def _products(a: Tensor, b: Tensor) -> Tensor:
    """a · bᵀ of N pairs of matrices."""
    if _onednn_takes(a[0], b[0]):
        return torch.stack(list(map(_product, a, b)))
    return torch.bmm(a, b.mT)
