"""Decoder-only Transformer, pre-norm.

Shapes: B batch, S sequence, D width, H heads, K head size (D = H·K), V vocabulary, R mlp_ratio.

    tokens      (B, S)          ids
    x           (B, S, D)       residual stream
    q, k, v     (B, H, S, K)
    logits      (B, S, V)

Every width-dependent number (initial std, readout multiplier, attention scale) is set from outside by
`parametrization.apply`; this file holds the network only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutransfer.config.data import TokenSpec
from mutransfer.config.models import GPTSection


class GPT(nn.Module):
    """`tokens (B, S) → logits (B, S, V)`; position s sees tokens 0…s."""

    def __init__(self, section: GPTSection, spec: TokenSpec) -> None:
        super().__init__()
        width = section.width
        self.embedding = nn.Embedding(spec.vocab_size, width)
        self.position = nn.Embedding(spec.seq_len, width) if section.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(section) for _ in range(section.depth))
        self.norm = _norm(section)
        self.readout = nn.Linear(width, spec.vocab_size, bias=False)
        self.embedding_gain = 1.0
        if section.tied_embeddings:
            self.readout.weight = self.embedding.weight
            # A shared weight starts at 1/√base_width for the logits' sake; this gives embeddings std 1 again.
            self.embedding_gain = math.sqrt(section.base_width)
        # What parametrization.roles and parametrization.apply read.
        self.base_init_std = {"*.query.weight": 0.0} if section.zero_query else {}
        self.position_modules = ("position",)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at every position."""
        x = self.embedding(tokens) * self.embedding_gain
        if self.position is not None:
            x = x + self.position(torch.arange(tokens.shape[-1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.readout(self.norm(x))
        return logits


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each branch times `residual_scale`; (B, S, D) → (B, S, D)."""

    residual_scale: Tensor

    def __init__(self, section: GPTSection) -> None:
        super().__init__()
        width, inner = section.width, section.mlp_ratio * section.width
        self.attention_norm = _norm(section)
        self.attention = Attention(section)
        self.mlp_norm = _norm(section)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.register_buffer("residual_scale", torch.tensor(1.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        scale = self.residual_scale.to(x.dtype)
        x = x + scale * self.attention(self.attention_norm(x))
        out: Tensor = x + scale * self.down(F.gelu(self.up(self.mlp_norm(x))))
        return out


class Attention(nn.Module):
    """Causal self-attention; (B, S, D) → (B, S, D)."""

    attention_scale: Tensor

    def __init__(self, section: GPTSection) -> None:
        super().__init__()
        width = section.width
        self.head_dim = section.head_dim_at(width)
        self.rotary = section.positions == "rotary"
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.register_buffer("attention_scale", torch.tensor(1.0 / math.sqrt(self.head_dim)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to this and earlier positions."""
        split = (*x.shape[:-1], -1, self.head_dim)  # (B, S, H, K)
        q = self.query(x).view(split).transpose(-3, -2)
        k = self.key(x).view(split).transpose(-3, -2)
        v = self.value(x).view(split).transpose(-3, -2)
        if self.rotary:
            q, k = rotate(q), rotate(k)
        q = q * self.attention_scale.to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        out: Tensor = self.out(mixed.transpose(-3, -2).reshape(x.shape))
        return out


def rotate(x: Tensor) -> Tensor:
    """Rotary position embedding of (…, S, K), first half of K against the second (Su et al. 2021)."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)[:, None] * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _norm(section: GPTSection) -> nn.LayerNorm:
    return nn.LayerNorm(section.width, elementwise_affine=section.norm_gain, bias=False)
