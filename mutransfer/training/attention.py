"""Scaled dot-product attention under `torch.func.vmap` as one kernel call: the mapped axis joins the batch.

torch (2.13) has no batching rule for its fused CPU kernel and falls back to a loop over the mapped axis, forward and
backward. Here the rule is registered once for every caller: shipped models and users' own modules call
`torch.nn.functional.scaled_dot_product_attention` as ever.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mutransfer.training.linear import members_first


def folded_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`F.scaled_dot_product_attention`, with a batching rule."""
    folded: Tensor = _Folded.apply(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)  # type: ignore[no-untyped-call]
    return folded


class _Folded(torch.autograd.Function):
    """Only the vmap rule is differentiated: it calls torch's function on plain tensors, which autograd records."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        """Attention of plain tensors (…, S, K); under vmap `vmap` below takes its place."""
        query, key, value, mask, dropout, causal, scale, gqa = args
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, causal, scale=scale, enable_gqa=gqa)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: see the class."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        """(N mapped, B, …) becomes (N·B, …), and back; queries without a batch get N for one."""
        size = info.batch_size
        query, key, value = (members_first(args[place], in_dims[place], size) for place in range(3))
        mask, batch = args[3], query.shape[1:-2]
        if mask is not None and (in_dims[3] is not None or mask.dim() > 2):
            mask = members_first(mask, in_dims[3], size)
            mask = mask.reshape(size, *[1] * (query.dim() - mask.dim()), *mask.shape[1:])
            mask = mask.expand(size, *batch[:1], *mask.shape[1 + len(batch[:1]) :])
            mask = mask.flatten(0, 1) if batch else mask
        if batch:
            query, key, value = (tensor.flatten(0, 1) for tensor in (query, key, value))
        out = F.scaled_dot_product_attention(
            query, key, value, mask, args[4], args[5], scale=args[6], enable_gqa=args[7]
        )
        return out.view(size, -1, *out.shape[1:]) if batch else out, 0
