"""A model of your own for `kind: module`: a small causal Transformer with queries, keys and values in one matrix.

Nothing in it is about µP but the lines marked so. configs/module-example.yaml tunes it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutransfer import ModelFacts


class Attention(nn.Module):
    """Causal self-attention, (B, S, D) → (B, S, D)."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.head_dim = head_dim
        # µP: the plan sets it, since `Model.facts` names this module.
        self.register_buffer("attention_scale", torch.tensor(1 / math.sqrt(head_dim)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to this and earlier positions."""
        shape = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (part.view(shape).transpose(-3, -2) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q * self.attention_scale, k, v, is_causal=True, scale=1.0)
        out: Tensor = self.out(mixed.transpose(-3, -2).reshape(x.shape))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, head_dim: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, head_dim)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.gate_up = nn.Linear(width, 2 * ratio * width, bias=False)
        self.down = nn.Linear(ratio * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        x = x + self.attention(self.norm1(x))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        out: Tensor = x + self.down(F.silu(gate) * up)
        return out


class Model(nn.Module):
    """`tokens (B, S) → logits (B, S, V)`."""

    def __init__(self, width: int, vocab_size: int, seq_len: int, depth: int, head_dim: int, ratio: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(seq_len, width)
        self.blocks = nn.ModuleList(Block(width, head_dim, ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.head = nn.Linear(width, vocab_size)
        self.facts = ModelFacts(  # µP: what shapes cannot tell
            readouts=("head",),
            positions=("position",),  # hparams.position_scale multiplies it
            attention={"blocks.*.attention": head_dim},
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token."""
        x = self.embedding(tokens) + self.position(torch.arange(tokens.shape[-1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def build(width: int, vocab_size: int, seq_len: int, depth: int = 2, head_dim: int = 16, ratio: int = 2) -> nn.Module:
    """The factory. `vocab_size` and `seq_len` come from the data section, the rest from the model section."""
    return Model(width, vocab_size, seq_len, depth, head_dim, ratio)
