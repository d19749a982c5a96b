"""Encoder that guesses masked tokens (Devlin et al. 2018, arXiv 1810.04805), pre-norm, without sentence pairs.

Shapes: B batch, S sequence, D width, V vocabulary, the mask's id among it.

    tokens      (B, S)          ids, some of them masked
    x           (B, S, D)       residual stream
    logits      (B, S, V)       of what stood there
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mutransfer.config.data import MaskedSpec
from mutransfer.config.models import BERTSection
from mutransfer.models.layers import norm_of
from mutransfer.models.transformer import Block, transformer_facts


class BERT(nn.Module):
    """`tokens (B, S) → logits (B, S, V)`; every position sees every other."""

    def __init__(self, section: BERTSection, spec: MaskedSpec) -> None:
        super().__init__()
        self.embedding = nn.Embedding(spec.vocab_size, section.width)
        self.position = nn.Embedding(spec.seq_len, section.width)
        self.blocks = nn.ModuleList(Block(section) for _ in range(section.depth))
        self.norm = norm_of(section, section.width)
        self.readout = nn.Linear(section.width, spec.vocab_size, bias=section.bias)
        if section.tied_embeddings:
            self.readout.weight = self.embedding.weight
        self.facts = transformer_facts(self, section, table="embedding")

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of every token, masked ones among them."""
        x = self.embedding(tokens)
        x = x + self.position(torch.arange(tokens.shape[-1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.readout(self.norm(x))
        return logits
