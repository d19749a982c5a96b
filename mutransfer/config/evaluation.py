"""The `evaluation:` section: what is measured of a trained model beside its loss."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from mutransfer.config.base import Section


class EvaluationSection(Section):
    """What is measured of a trained model beside its loss, on `data.test` or else on the validation part."""

    metrics: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """Which: `bleu` of a seq2seq (extra `translation`). All that the model has when left out, `[]` for none."""
    trials: bool = False
    """Measure the trials of a sweep too, and not only what `mutransfer train` trains. They are never selected by it."""
    beam: PositiveInt = 4
    """Hypotheses per sentence in beam search; 1 is greedy."""
    examples: PositiveInt = 1000
    """Examples at most, the first ones of the part."""
