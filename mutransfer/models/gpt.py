"""Decoder-only Transformer, pre-norm.

Shapes: B batch, S sequence, D width, V vocabulary; attention.py has its own.

    tokens      (B, S)          ids
    x           (B, S, D)       residual stream
    logits      (B, S, V)

Every width-dependent number (initial std, readout multiplier, attention scale) is set from outside by
`parametrization.apply`; this file holds the network only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutransfer.config.data import TokenSpec
from mutransfer.config.models import GPTSection
from mutransfer.models.attention import CausalAttention
from mutransfer.models.layers import RelativeBias, named, norm_of, transformer_facts
from mutransfer.parametrization.rules import Role


class GPT(nn.Module):
    """`tokens (B, S) → logits (B, S, V)`; position s sees tokens 0…s."""

    def __init__(self, section: GPTSection, spec: TokenSpec) -> None:
        super().__init__()
        width = section.width
        self.embedding = nn.Embedding(spec.vocab_size, width)
        self.position = nn.Embedding(spec.seq_len, width) if section.positions == "learned" else None
        self.blocks = nn.ModuleList(GPTBlock(section) for _ in range(section.depth))
        self.norm = norm_of(section, width)
        self.readout = nn.Linear(width, spec.vocab_size, bias=False)
        if section.tied_embeddings:
            self.readout.weight = self.embedding.weight
        facts = transformer_facts(self, section, table="embedding", attention=CausalAttention, block=GPTBlock)
        relative = named(self, RelativeBias)
        if relative:
            # A table by its shape, but not one through which data enters: a bias for every head.
            role: Role = "vector" if section.heads is None else "scalar"
            facts = facts.extended(
                roles={"*.relative.weight": role},
                init_std={"*.relative.weight": 0.0},
                finite=relative if section.heads is not None else (),
                relative=relative,
            )
        self.facts = facts

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at every position."""
        x = self.embedding(tokens)
        if self.position is not None:
            x = x + self.position(torch.arange(tokens.shape[-1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.readout(self.norm(x))
        return logits


class GPTBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each branch times `residual_scale`; (B, S, D) → (B, S, D)."""

    residual_scale: Tensor

    def __init__(self, section: GPTSection) -> None:
        super().__init__()
        width, inner = section.width, section.mlp_ratio * section.width
        self.attention_norm = norm_of(section, width)
        self.attention = CausalAttention(section)
        self.mlp_norm = norm_of(section, width)
        self.up = nn.Linear(width, inner, bias=False)
        self.gate = nn.Linear(width, inner, bias=False) if section.mlp == "swiglu" else None
        self.down = nn.Linear(inner, width, bias=False)
        self.register_buffer("residual_scale", torch.tensor(1.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        scale = self.residual_scale.to(x.dtype)
        x = x + scale * self.attention(self.attention_norm(x))
        out: Tensor = x + scale * self.down(self._inner(self.mlp_norm(x)))
        return out

    def _inner(self, x: Tensor) -> Tensor:
        """(B, S, D) → (B, S, inner)."""
        return F.gelu(self.up(x)) if self.gate is None else F.silu(self.gate(x)) * self.up(x)
