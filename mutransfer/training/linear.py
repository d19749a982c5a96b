"""`torch.nn.functional.linear` for the members of a pack, under `torch.func.vmap`.

Shapes: N members of a pack; x (…, I) and weight (O, I) give (…, O).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LinearGradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias under `torch.func.vmap`, (…, I) → (…, O)."""
    if torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight, bias)  # autocast casts torch's own function only
    out: Tensor = _PackedLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


def members_first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """(N, …) of a tensor that vmap maps along `dim`, or that all `size` members share if it is None."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


class _PackedLinear(torch.autograd.Function):
    """A linear layer with a batching rule, which needs `setup_context`; torch binds a signature at every call."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(…, I) → (…, O)."""
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        """Keep what the gradient needs."""
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> LinearGradients:
        """Gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        want_x, want_weight, want_bias = ctx.needs_input_grad
        return (
            (rows @ weight).view(x.shape) if want_x else None,
            rows.t() @ x.reshape(-1, x.shape[-1]) if want_weight else None,
            rows.sum(0) if want_bias else None,
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        """The layers of the members of a pack."""
        size = info.batch_size
        x = members_first(x, in_dims[0], size)
        if in_dims[1] is None and in_dims[2] is None:  # the members share the layer: their rows are rows
            return F.linear(x, weight, bias), 0
        bias = None if bias is None else members_first(bias, in_dims[2], size)
        return _Stacked.apply(x, members_first(weight, in_dims[1], size), bias), 0  # type: ignore[no-untyped-call]


class _Stacked(torch.autograd.Function):
    """N layers on inputs of their own: x (N, …, I), weight (N, O, I), bias (N, O). Gradients lie in memory as their
    weights do, which the transposed products that autograd would choose do not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(N, …, I) → (N, …, O)."""
        ctx.save_for_backward(x, weight)
        out = torch.bmm(_rows(x), weight.mT)
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
            torch.bmm(grads.mT, rows) if want_weight else None,
            grads.sum(1) if want_bias else None,
        )


def _rows(x: Tensor) -> Tensor:
    """(N, …, I) as (N, rows, I)."""
    return x.reshape(len(x), -1, x.shape[-1])


def _laid_out_as(rows: Tensor, grads: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `rows` (N, rows, I), which lies in memory as they do: the next operation reads both at once."""
    if rows.stride(-1) == 1:
        return torch.bmm(grads, weight)
    return torch.bmm(weight.mT, grads.mT).mT
