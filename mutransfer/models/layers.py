"""Layers that a Transformer is made of, chosen by its section."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mutransfer.config.models.heads import TransformerSection

_EPS = 1e-5
"""Of norms; torch's default for LayerNorm. nn.RMSNorm's own is that of the number format, 1e-7 for fp32."""


def norm_of(section: TransformerSection, size: int) -> nn.Module:
    """The section's norm over a last dimension of `size`."""
    if getattr(section, "norm", "layernorm") == "rmsnorm":
        return nn.RMSNorm(size, eps=_EPS, elementwise_affine=section.norm_gain)
    bias = section.has_biases and section.norm_gain
    return nn.LayerNorm(size, eps=_EPS, elementwise_affine=section.norm_gain, bias=bias)


class RelativeBias(nn.Embedding):
    """Bias on attention logits per distance to an earlier position and head (Raffel et al. 2020, arXiv 1910.10683).

    Called with a length S it gives (H, S, S): row s, column t the bias of what position s sees at t ≤ s; above the
    diagonal, that of distance 0. The weight is (buckets, H), a vector over heads per bucket.
    """

    relative_scale: Tensor

    def __init__(self, heads: int, buckets: int, distance: int) -> None:
        super().__init__(buckets, heads)
        self.distance = distance
        self.register_buffer("relative_scale", torch.tensor(1.0), persistent=False)

    def forward(self, length: int) -> Tensor:  # type: ignore[override]
        """The bias (H, S, S) of S = `length` positions."""
        position = torch.arange(length, device=self.weight.device)
        bucket = bucket_of(position, self.num_embeddings, self.distance)
        apart = (position[:, None] - position).clamp(min=0)
        bias = super().forward(bucket[apart]).permute(2, 0, 1)
        return bias * self.relative_scale.to(bias.dtype)

    def causal(self, length: int, dtype: torch.dtype) -> Tensor:
        """The bias (H, S, S) with later positions masked out."""
        later = torch.ones(length, length, dtype=torch.bool, device=self.weight.device).triu(1)
        bias: Tensor = self(length)
        return bias.to(dtype).masked_fill(later, -math.inf)


def bucket_of(distances: Tensor, buckets: int, furthest: int) -> Tensor:
    """Bucket of each distance ≥ 0: its own for the nearer half of the buckets, then ranges spaced by the logarithm, the
    last one from about `furthest` on."""
    exact = buckets // 2
    spread = torch.log(distances.clamp(min=exact).float() / exact) / math.log(furthest / exact)
    far = exact + (spread * (buckets - exact)).long()
    return torch.where(distances < exact, distances, far.clamp(max=buckets - 1))


def rotary_tables(x: Tensor) -> tuple[Tensor, Tensor]:
    """What `rotate` multiplies an x (…, S, K) by: cosines, and sines that are negative in the first half, (S, K)."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)[:, None] * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding of (…, S, K), first half of K against the second (Su et al. 2021)."""
    cos, sin = tables
    # One pass over all of K, whose gradient is one too: halves by themselves need zeros around theirs.
    return x * cos + torch.roll(x, x.shape[-1] // 2, dims=-1) * sin


def sinusoids(positions: int, width: int, like: Tensor) -> Tensor:
    """Fixed positions (positions, width) with the device and dtype of `like`: sines in the first half, cosines in the
    second (Vaswani et al. 2017, §3.5)."""
    half = (width + 1) // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=like.device, dtype=torch.float32) / half)
    angles = torch.arange(positions, device=like.device, dtype=torch.float32)[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), -1)[:, :width].to(like.dtype)
