"""Encoder–decoder Transformer for translation, pre-norm.

Shapes: B batch, S source positions, T target positions, D width, V target vocabulary.

    source      (B, S)          ids, `PAD` behind the end
    target      (B, T)          what the decoder has read: `BEGIN`, then words
    memory      (B, S, D)       the encoder's output
    logits      (B, T, V)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mutransfer.config.data.base import PAD, PairSpec
from mutransfer.config.models import Seq2SeqSection
from mutransfer.models.layers import norm_of, sinusoids
from mutransfer.models.transformer import Block, KeysValues, transformer_facts


class Seq2Seq(nn.Module):
    """`source (B, S), target (B, T) → logits (B, T, V)`; position t sees the whole source and targets 0…t."""

    def __init__(self, section: Seq2SeqSection, spec: PairSpec) -> None:
        super().__init__()
        self.encoder = Stack(section, spec.source_vocab, spec.source_len, crosses=False)
        self.decoder = Stack(section, spec.target_vocab, spec.target_len, crosses=True)
        self.readout = nn.Linear(section.width, spec.target_vocab, bias=section.bias)
        if section.tied_embeddings:
            self.readout.weight = self.decoder.embedding.weight
        self.facts = transformer_facts(self, section, table="decoder.embedding")

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits of the next word at every target position."""
        memory, mask = self.encode(source)
        x = self.decoder.enter(target)
        for block in self.decoder.blocks:
            x = block(x, memory, mask=mask, causal=True)
        logits: Tensor = self.readout(self.decoder.norm(x))
        return logits

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """The memory (B, S, D), and the mask (B, 1, 1, S) that is True at words."""
        mask = (source != PAD)[..., None, None, :]
        x = self.encoder.enter(source)
        for block in self.encoder.blocks:
            x = block(x, mask=mask)
        memory: Tensor = self.encoder.norm(x)
        return memory, mask


class Stack(nn.Module):
    """Embedding, positions, blocks and the norm behind them, of an encoder or a decoder."""

    blocks: nn.ModuleList

    def __init__(self, section: Seq2SeqSection, vocabulary: int, length: int, *, crosses: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, section.width)
        self.position = nn.Embedding(length, section.width) if section.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(section, crosses=crosses) for _ in range(section.depth))
        self.norm = norm_of(section, section.width)

    def enter(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Ids (B, S), the first of them at position `start`, into the residual stream (B, S, D)."""
        x: Tensor = self.embedding(tokens)
        end = start + tokens.shape[-1]
        if self.position is not None:
            learned: Tensor = self.position(torch.arange(start, end, device=tokens.device))
            return x + learned
        return x + sinusoids(end, x.shape[-1], x)[start:]


class Decoding:
    """The decoder, one word at a time; the words read so far are kept as keys and values."""

    def __init__(self, model: Seq2Seq, source: Tensor) -> None:
        memory, self._mask = model.encode(source)
        self._model, self._read = model, 0
        self._blocks: list[Block] = [block for block in model.decoder.blocks if isinstance(block, Block)]
        self._memories = [block.cross.remember(memory) for block in self._blocks if block.cross is not None]
        self._past: list[KeysValues | None] = [None] * len(self._blocks)

    def read(self, tokens: Tensor) -> Tensor:
        """Take in the next word of every sentence (B,); logits (B, V) of the one after it."""
        x = self._model.decoder.enter(tokens[:, None], self._read)
        for index, block in enumerate(self._blocks):
            past = block.extend(self._past[index], x)
            x = block(x, self._memories[index], mask=self._mask, past=past)
            self._past[index] = past
        self._read += 1
        logits: Tensor = self._model.readout(self._model.decoder.norm(x))[:, 0]
        return logits

    def keep(self, rows: Tensor) -> None:
        """Go on with these sentences, each as often as its row is named."""
        self._mask = self._mask[rows]
        self._memories = [(k[rows], v[rows]) for k, v in self._memories]
        self._past = [None if past is None else (past[0][rows], past[1][rows]) for past in self._past]
