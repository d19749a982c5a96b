"""The peers' models: mutransfer's gpt and mlp as plain PyTorch with the `mup` package. One file for all peers."""

from __future__ import annotations

import math
from typing import Any

import mup
import torch
import torch.nn.functional as F
from mup import MuAdamW, MuReadout, MuSGD, make_base_shapes, set_base_shapes
from torch import Tensor, nn
from workloads import BETAS, MOMENTUM, Workload

VOCABULARY, CLASSES = 256, 10


class MLP(nn.Module):
    """`inputs (B, F) → logits (B, C)`."""

    def __init__(self, features: int, width: int, depth: int, temperature: float) -> None:
        super().__init__()
        sizes = [features, *[width] * depth]
        self.layers = nn.ModuleList(nn.Linear(sizes[index], sizes[index + 1]) for index in range(depth))
        self.readout = MuReadout(width, CLASSES, readout_zero_init=True)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        for layer in self.layers:
            x = F.relu(layer(x))
        logits: Tensor = self.readout(x) / self.temperature
        return logits


class Attention(nn.Module):
    """Causal attention with rotary positions; (B, S, D) → (B, S, D)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, heads: int, base_width: int, seq_len: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.scale = math.sqrt(base_width // heads) / self.head_dim  # muP: 1/d, and 1/sqrt(d) at the base width
        half = self.head_dim // 2
        angles = torch.arange(seq_len)[:, None] * 10000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to this and earlier positions."""
        batch, seq_len, width = x.shape
        shape = (batch, seq_len, self.heads, self.head_dim)
        q = self.rotate(self.query(x).view(shape).transpose(1, 2))
        k = self.rotate(self.key(x).view(shape).transpose(1, 2))
        v = self.value(x).view(shape).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, seq_len, width))
        return out

    def rotate(self, x: Tensor) -> Tensor:
        """Rotary embedding of (B, H, S, K)."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * self.cos - second * self.sin, second * self.cos + first * self.sin), dim=-1)


class Block(nn.Module):
    """Pre-norm block."""

    def __init__(self, width: int, heads: int, base_width: int, seq_len: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads, base_width, seq_len)
        self.mlp_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        x = x + self.attention(self.attention_norm(x))
        out: Tensor = x + self.down(F.gelu(self.up(self.mlp_norm(x))))
        return out


class GPT(nn.Module):
    """`tokens (B, S) → logits (B, S, V)`."""

    def __init__(self, width: int, depth: int, heads: int, base_width: int, seq_len: int, temperature: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width, heads, base_width, seq_len) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.readout = MuReadout(width, VOCABULARY, bias=False, readout_zero_init=True)
        self.temperature = temperature

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at every position."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.readout(self.norm(x)) / self.temperature
        return logits


def _make(workload: Workload, width: int, temperature: float = 1.0) -> nn.Module:
    if workload.kind == "gpt":
        return GPT(width, workload.depth, workload.heads, workload.base_width, workload.seq_len, temperature)
    features = 3 * 32 * 32 if workload.limit else 8 * 8
    return MLP(features, width, workload.depth, temperature)


_SHAPES: dict[str, Any] = {}


def build(workload: Workload, *, init_scale: float, temperature: float, seed: int) -> nn.Module:
    """The model of one trial with its initial weights."""
    if workload.name not in _SHAPES:
        base, delta = _make(workload, workload.base_width), _make(workload, 2 * workload.base_width)
        _SHAPES[workload.name] = make_base_shapes(base, delta)
    torch.manual_seed(seed)
    model = _make(workload, workload.width, temperature)
    set_base_shapes(model, _SHAPES[workload.name])
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or name.startswith("readout") or name.endswith("query.weight"):
            nn.init.zeros_(parameter)
        elif name.startswith("embedding"):
            mup.normal_(parameter, std=init_scale)
        else:  # 1/sqrt(fan_in) at the base width; mup scales it from there
            fan_in = parameter.infshape[1]  # type: ignore[attr-defined]  # set_base_shapes attaches it
            mup.normal_(parameter, std=init_scale / math.sqrt(fan_in.base_dim or fan_in.dim))
    return model


def make_optimizer(workload: Workload, model: nn.Module, lr: float, *, fused: bool) -> torch.optim.Optimizer:
    """muP's AdamW for the gpt, muP's SGD with momentum for the mlp."""
    optimizer: torch.optim.Optimizer
    if workload.kind == "gpt":
        optimizer = MuAdamW(model.parameters(), lr=lr, betas=BETAS, weight_decay=0.0, fused=fused or None)
    else:
        optimizer = MuSGD(model.parameters(), lr=lr, momentum=MOMENTUM, fused=fused or None)
    return optimizer
