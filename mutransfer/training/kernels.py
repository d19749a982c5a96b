"""Kernels of torch functions under `torch.func.vmap`: the same mathematics, replaced at the call, for every module.

Shipped models and users' own call `torch.nn.functional`; in packs, `PackedKernels` decides what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mutransfer.training.attention import folded_attention
from mutransfer.training.linear import packed_linear


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """`F.group_norm` of x (B, C, …), whose CPU kernel (torch 2.13) does not run under vmap: a layer norm per group."""
    grouped = x.reshape(x.shape[0], num_groups, -1)
    normed = F.layer_norm(grouped, grouped.shape[-1:], eps=eps).view(x.shape)
    over_pixels = (-1, *[1] * (x.dim() - 2))
    normed = normed if weight is None else normed * weight.view(over_pixels)
    return normed if bias is None else normed + bias.view(over_pixels)


class PackedKernels(TorchFunctionMode):
    """The context in which the model of a pack runs."""

    _CHOSEN: Mapping[Any, Callable[..., Any]] = {
        F.linear: packed_linear, F.scaled_dot_product_attention: folded_attention, F.group_norm: group_norm,
    }  # fmt: skip

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """torch calls it for every function."""
        return self._CHOSEN.get(func, func)(*args, **(kwargs or {}))
