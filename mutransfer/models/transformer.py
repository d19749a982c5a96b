"""What encoders and decoders are made of: attention with masks and memories, and pre-norm blocks.

Shapes: B batch, S positions that ask, M positions that are attended to, D width, H heads, K head size (D = H·K).

    x           (B, S, D)       residual stream
    q           (B, H, S, K)
    k, v        (B, H, M, K)
    mask        (B, 1, 1, M)    True where a position may be attended to

Every width-dependent number is set from outside by `parametrization.apply`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutransfer.config.models.heads import HeadsSection

KeysValues = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Attention of x to itself or to a memory; (B, S, D) → (B, S, D)."""

    attention_scale: Tensor

    def __init__(self, section: HeadsSection) -> None:
        super().__init__()
        width = section.width
        self.head_dim = section.head_dim_at(width)
        self.query = nn.Linear(width, width, bias=section.bias)
        self.key = nn.Linear(width, width, bias=section.bias)
        self.value = nn.Linear(width, width, bias=section.bias)
        self.out = nn.Linear(width, width, bias=section.bias)
        self.register_buffer("attention_scale", torch.tensor(1.0 / math.sqrt(self.head_dim)), persistent=False)

    def forward(
        self, x: Tensor, memory: KeysValues | None = None, *, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attend to `memory`, or to x itself."""
        q = self._heads(self.query(x))
        k, v = self.remember(x) if memory is None else memory
        q = q * self.attention_scale.to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=1.0)
        out: Tensor = self.out(mixed.transpose(-3, -2).reshape(x.shape))
        return out

    def remember(self, x: Tensor) -> KeysValues:
        """Keys and values of x (B, M, D)."""
        return self._heads(self.key(x)), self._heads(self.value(x))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(-3, -2)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), in a decoder x + cross(norm(x), memory), then x + mlp(norm(x)), each branch times
    `residual_scale`; (B, S, D) → (B, S, D)."""

    residual_scale: Tensor

    def __init__(self, section: HeadsSection, *, crosses: bool = False) -> None:
        super().__init__()
        width, inner = section.width, section.mlp_ratio * section.width
        self.attention_norm = norm(section)
        self.attention = Attention(section)
        self.cross_norm = norm(section) if crosses else None
        self.cross = Attention(section) if crosses else None
        self.mlp_norm = norm(section)
        self.up = nn.Linear(width, inner, bias=section.bias)
        self.down = nn.Linear(inner, width, bias=section.bias)
        self.register_buffer("residual_scale", torch.tensor(1.0), persistent=False)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | KeysValues | None = None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        past: KeysValues | None = None,
    ) -> Tensor:
        """One block.

        Args:
            memory: what `cross` attends to: the encoder's output, or what `cross.remember` made of it.
            mask: over the memory where there is one, else over x.
            past: keys and values of earlier positions, x among them (`extend` makes them).
        """
        scale = self.residual_scale.to(x.dtype)
        own_mask = mask if self.cross is None else None
        x = x + scale * self.attention(self.attention_norm(x), past, mask=own_mask, causal=causal)
        if self.cross is not None and self.cross_norm is not None and memory is not None:
            remembered = memory if isinstance(memory, tuple) else self.cross.remember(memory)
            x = x + scale * self.cross(self.cross_norm(x), remembered, mask=mask)
        out: Tensor = x + scale * self.down(F.gelu(self.up(self.mlp_norm(x))))
        return out

    def extend(self, past: KeysValues | None, x: Tensor) -> KeysValues:
        """Keys and values of earlier positions, and those of x behind them."""
        k, v = self.attention.remember(self.attention_norm(x))
        return (k, v) if past is None else (torch.cat((past[0], k), -2), torch.cat((past[1], v), -2))


def norm(section: HeadsSection) -> nn.LayerNorm:
    """Layer norm over the width."""
    return nn.LayerNorm(section.width, elementwise_affine=section.norm_gain, bias=section.bias and section.norm_gain)


def sinusoids(positions: int, width: int, like: Tensor) -> Tensor:
    """Fixed positions (positions, width) with the device and dtype of `like`: sines in the first half, cosines in the
    second (Vaswani et al. 2017, §3.5)."""
    half = (width + 1) // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=like.device, dtype=torch.float32) / half)
    angles = torch.arange(positions, device=like.device, dtype=torch.float32)[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), -1)[:, :width].to(like.dtype)
