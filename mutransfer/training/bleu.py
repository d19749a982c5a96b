"""BLEU of a trained translation model, by sacreBLEU (Post 2018, arXiv 1804.08771) with its own tokenisation `13a`."""

from __future__ import annotations

import importlib
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from mutransfer.config.data import PairSpec, TranslationSection
from mutransfer.config.data.base import PAD
from mutransfer.config.schema import RunConfig
from mutransfer.data.dataset import Dataset
from mutransfer.data.pairs import PairDataset
from mutransfer.errors import DataError
from mutransfer.models.decoding import translate
from mutransfer.models.seq2seq import Decoding, Seq2Seq
from mutransfer.training.metrics import Alive, unwatched

_AT_ONCE = 64


class Bleu:
    """Corpus BLEU, 0 to 100, of beam search against whole references; without case where the vocabulary has none."""

    def require(self) -> None:
        """sacreBLEU is an optional extra; a missing one is reported before the training."""
        _sacrebleu()

    def __call__(
        self, config: RunConfig, model: nn.Module, data: Dataset, device: torch.device, *, alive: Alive = unwatched
    ) -> float:
        """Translate and compare."""
        found = translations(config, model, data, device, alive=alive)
        references = cast(PairDataset, data).held.references[: len(found)]
        lowercase = cast(TranslationSection, config.data).lowercase
        return float(_sacrebleu().corpus_bleu(found, [references], lowercase=lowercase).score)


bleu = Bleu()


def translations(
    config: RunConfig, model: nn.Module, data: Dataset, device: torch.device, *, alive: Alive = unwatched
) -> list[str]:
    """The model's translations of the held-out sentences, by the config's beam search."""
    model, pairs = cast(Seq2Seq, model), cast(PairDataset, data)
    sources = pairs.held.sources[: config.evaluation.examples]
    order = sorted(range(len(sources)), key=lambda row: len(sources[row]))  # alike in length: little padding
    found = [""] * len(sources)
    for first in range(0, len(order), _AT_ONCE):
        rows = order[first : first + _AT_ONCE]
        padded = np.full((len(rows), max(len(sources[row]) for row in rows)), PAD, dtype=np.int64)
        for line, row in zip(padded, rows, strict=True):
            line[: len(sources[row])] = sources[row]
        with torch.no_grad():
            decoded = translate(
                lambda source: Decoding(model, source),
                torch.from_numpy(padded).to(device),
                beam=config.evaluation.beam,
                longest=cast(PairSpec, config.data.spec).target_len,
            )
        for row, words in zip(rows, decoded, strict=True):
            found[row] = pairs.decode(words)
        alive()
    return found


def _sacrebleu() -> Any:
    try:
        return importlib.import_module("sacrebleu")
    except ImportError:
        raise DataError(
            "metric bleu needs the extra 'translation' (sacrebleu is missing): pip install 'mutransfer[translation]', "
            "or set evaluation.metrics to []"
        ) from None
