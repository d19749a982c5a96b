"""Causal self-attention of a gpt.

Shapes: B batch, S sequence, D width, H heads, G heads of keys and values, K head size (D = H·K).

    x           (B, S, D)
    q           (B, H, S, K)
    k, v        (B, G, S, K), each for H/G heads in a row
    bias        (H, S, S)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutransfer.config.models import GPTSection
from mutransfer.models.layers import RelativeBias, norm_of, rotary_tables, rotate


class CausalAttention(nn.Module):
    """Causal self-attention; (B, S, D) → (B, S, D)."""

    attention_scale: Tensor

    def __init__(self, section: GPTSection) -> None:
        super().__init__()
        width = section.width
        self.head_dim = section.head_dim_at(width)
        heads, kv_heads = section.heads_at(width), section.kv_heads_at(width)
        self.group = heads // kv_heads
        self.rotary = section.positions == "rotary"
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.value = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.query_norm = norm_of(section, self.head_dim) if section.qk_norm else None
        self.key_norm = norm_of(section, self.head_dim) if section.qk_norm else None
        buckets, distance = section.relative
        self.relative = RelativeBias(buckets, heads, distance) if section.positions == "relative" else None
        self.register_buffer("attention_scale", torch.tensor(1.0 / math.sqrt(self.head_dim)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to this and earlier positions."""
        q, k, v = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if self.rotary:
            tables = rotary_tables(q)
            q, k = rotate(q, tables), rotate(k, tables)
        q = q * self.attention_scale.to(q.dtype)
        if self.group > 1:
            # Not SDPA's enable_gqa: with it CUDA has no fused kernel for fp32, and none that takes a bias.
            k, v = (one.repeat_interleave(self.group, dim=-3) for one in (k, v))
        bias = self._bias(x.shape[-2], q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None, scale=1.0)
        out: Tensor = self.out(mixed.transpose(-3, -2).reshape(x.shape))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """(B, S, H·K) → (B, H, S, K)."""
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(-3, -2)

    def _bias(self, length: int, dtype: torch.dtype) -> Tensor | None:
        """The relative bias with later positions masked out; none where the kernel's own mask is all there is."""
        if self.relative is None:
            return None
        later = torch.ones(length, length, dtype=torch.bool, device=self.relative.weight.device).triu(1)
        bias: Tensor = self.relative(length)
        return bias.to(dtype).masked_fill(later, -math.inf)
