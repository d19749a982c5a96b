"""Translations of a trained encoder–decoder: greedy and beam search.

Shapes: B sentences, K hypotheses of each, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from mutransfer.config.data.base import BEGIN, END, PAD

LENGTH_PENALTY = 0.6
"""Power of its length by which a hypothesis's log probability is divided (Wu et al. 2016, arXiv 1609.08144, §7)."""


class Decoder(Protocol):
    """A model that reads a word at a time."""

    def read(self, tokens: Tensor) -> Tensor:
        """Words (rows,) → logits (rows, V) of the next."""

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows."""


def translate(
    start: Callable[[Tensor], Decoder], source: Tensor, *, beam: int, longest: int, penalty: float = LENGTH_PENALTY
) -> list[list[int]]:
    """The words of each translation, without beginning and end.

    Args:
        start: takes the source (B, S) and gives the decoder at its beginning.
        beam: K; 1 is greedy search.
        longest: words of a translation at most, the end included.
        penalty: power of the length that long hypotheses are forgiven by; 0 compares plain probabilities.

    Each step extends all K hypotheses of a sentence by every word and keeps the best K; one that has ended stays as it
    is. The search of a sentence is over when all K have ended. Hypotheses are compared by log probability while they
    grow, and by log probability over length^penalty in the end.
    """
    sentences = len(source)
    decoder = start(source)
    rows = torch.arange(sentences, device=source.device)
    decoder.keep(rows.repeat_interleave(beam))
    last = torch.full((sentences * beam,), BEGIN, dtype=torch.long, device=source.device)
    scores = torch.full((sentences, beam), -torch.inf, device=source.device)
    scores[:, 0] = 0.0  # one hypothesis in the beginning, not K times the same
    words = torch.empty(sentences, beam, 0, dtype=torch.long, device=source.device)
    ended = torch.zeros(sentences, beam, dtype=torch.bool, device=source.device)
    for _ in range(longest):
        found = decoder.read(last).float().log_softmax(-1).view(sentences, beam, -1)
        found[..., [PAD, BEGIN]] = -torch.inf
        vocabulary = found.shape[-1]
        # What has ended goes on as itself at no cost.
        found = found.masked_fill(ended[..., None], -torch.inf)
        found[..., PAD] = torch.where(ended, 0.0, found[..., PAD])
        scores, flat = (scores[..., None] + found).flatten(1).topk(beam, dim=1)
        parents, chosen = flat // vocabulary, flat % vocabulary
        words = torch.cat((words.gather(1, parents[..., None].expand_as(words)), chosen[..., None]), -1)
        ended = ended.gather(1, parents) | (chosen == END)
        if ended.all():
            break
        decoder.keep((rows[:, None] * beam + parents).flatten())
        last = chosen.flatten()
    lengths = (words != PAD).sum(-1)
    best = (scores / lengths**penalty).argmax(1)
    chosen_words: list[list[int]] = words[rows, best].tolist()
    return [[word for word in sentence if word not in (PAD, END)] for sentence in chosen_words]
