"""`model: {kind: bert}`."""

from __future__ import annotations

from typing import Literal

from mutransfer.config.models.base import Loss
from mutransfer.config.models.heads import HeadsSection


class BERTSection(HeadsSection):
    """Encoder that guesses masked tokens, pre-norm, with learned positions; its data has `mask`."""

    implementation = "mutransfer.models.bert:BERT"
    consumes = "masked tokens"

    kind: Literal["bert"]
    """Model kind."""

    @property
    def criterion(self) -> Loss:  # noqa: D102
        return Loss(ignores=True)
