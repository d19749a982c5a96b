"""`model: {kind: seq2seq}`."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import Field

from mutransfer.config.data.base import DataSpec, PairSpec
from mutransfer.config.models.base import Loss
from mutransfer.config.models.heads import HeadsSection


class Seq2SeqSection(HeadsSection):
    """Encoder–decoder Transformer for translation, pre-norm."""

    implementation = "mutransfer.models.seq2seq:Seq2Seq"
    consumes = "token pairs"
    metrics = {"bleu": "mutransfer.training.bleu:bleu"}  # noqa: RUF012 - pydantic reads it as a ClassVar of the base

    kind: Literal["seq2seq"]
    """Model kind."""
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    """Fixed sines and cosines, or learned position embeddings of source and target."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the probability that training spreads over all words; the validation loss has none."""

    @property
    def criterion(self) -> Loss:  # noqa: D102
        return Loss(label_smoothing=self.label_smoothing, ignores=True)

    def places(self, parameter: str, spec: DataSpec) -> int:  # noqa: D102
        lengths = cast(PairSpec, spec)
        reads_source = parameter.startswith("encoder.") or ".cross.key" in parameter or ".cross.value" in parameter
        return lengths.source_len if reads_source else lengths.target_len

    def scores(self, attention: str, spec: DataSpec) -> int:  # noqa: D102
        lengths = cast(PairSpec, spec)
        reads_target = attention.startswith("decoder.") and attention.endswith(".attention")
        return self.places(attention, spec) * (lengths.target_len if reads_target else lengths.source_len)

    def dead_hparams(self) -> dict[str, str]:  # noqa: D102
        dead = super().dead_hparams()
        if self.positions != "learned":
            dead["position_scale"] = f"model.positions is {self.positions}; only learned positions are scaled"
        return dead
