"""Decoder-only Transformer, pre-norm.

Shapes: B batch, S sequence, D width, V vocabulary; transformer.py has those of its blocks.

    tokens      (B, S)          ids
    x           (B, S, D)       residual stream
    logits      (B, S, V)

Every width-dependent number (initial std, readout multiplier, attention scale) is set from outside by
`parametrization.apply`; this file holds the network only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mutransfer.config.data import TokenSpec
from mutransfer.config.models import GPTSection
from mutransfer.models.layers import norm_of
from mutransfer.models.transformer import Block, transformer_facts


class GPT(nn.Module):
    """`tokens (B, S) → logits (B, S, V)`; position s sees tokens 0…s."""

    def __init__(self, section: GPTSection, spec: TokenSpec) -> None:
        super().__init__()
        width = section.width
        self.embedding = nn.Embedding(spec.vocab_size, width)
        self.position = nn.Embedding(spec.seq_len, width) if section.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(section) for _ in range(section.depth))
        self.norm = norm_of(section, width)
        self.readout = nn.Linear(width, spec.vocab_size, bias=False)
        if section.tied_embeddings:
            self.readout.weight = self.embedding.weight
        self.facts = transformer_facts(self, section, table="embedding")

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at every position."""
        x = self.embedding(tokens)
        if self.position is not None:
            x = x + self.position(torch.arange(tokens.shape[-1], device=tokens.device))
        for block in self.blocks:
            x = block(x, causal=True)
        logits: Tensor = self.readout(self.norm(x))
        return logits
