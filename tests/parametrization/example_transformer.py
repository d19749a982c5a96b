"""A Transformer with the parameter names and shapes of the `mup` package's own example, written for these tests.

Post-norm encoder layers over sinusoidal positions; attention keeps queries, keys and values in one raw parameter, adds
a learned key and value to every sequence, and multiplies q·k by attn_mult / head_dim. Inputs are (B, S).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, attn_mult: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, attn_mult / (width // heads)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.bias_k = nn.Parameter(torch.zeros(1, 1, width))
        self.bias_v = nn.Parameter(torch.zeros(1, 1, width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        k, v = (torch.cat((own, more.expand(batch, 1, width)), 1) for own, more in ((k, self.bias_k), (v, self.bias_v)))
        q, k, v = (one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in (q, k, v))
        later = torch.ones(length, length + 1, dtype=torch.bool, device=x.device).triu(1)
        later[:, -1] = False  # the learned key is for all
        weights = (q @ k.mT * self.scale).masked_fill(later, -torch.inf).softmax(-1)
        return self.out_proj((weights @ v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, attn_mult: float) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads, attn_mult)
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.self_attn(x))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class Positions(nn.Module):
    pe: Tensor

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        angles = torch.arange(length)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        self.register_buffer("pe", torch.stack((angles.sin(), angles.cos()), -1).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pe[: x.shape[1]]


class Encoder(nn.Module):
    def __init__(self, layers: int, *sizes: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(*sizes) for _ in range(layers))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Transformer(nn.Module):
    def __init__(self, width: int, vocab_size: int, layers: int, heads: int, ratio: int, attn_mult: float) -> None:
        super().__init__()
        self.pos_encoder = Positions(width, 64)
        self.transformer_encoder = Encoder(layers, width, heads, ratio * width, attn_mult)
        self.encoder = nn.Embedding(vocab_size, width)
        self.decoder = nn.Linear(width, vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(self.transformer_encoder(self.pos_encoder(self.encoder(tokens))))


def build(
    width: int, vocab_size: int, layers: int = 2, heads: int = 2, ratio: int = 1, attn_mult: float = 1.0
) -> Transformer:
    return Transformer(width, vocab_size, layers, heads, ratio, attn_mult)
