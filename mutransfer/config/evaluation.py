"""The `evaluation:` section: what is measured of a trained model beside its loss."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mutransfer.config.base import Few, RowCount, Section


class EvaluationSection(Section):
    """What is measured of a trained model beside its loss, on `data.test` or else on the validation part."""

    metrics: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """Names of metrics: `bleu` for a seq2seq (extra `translation`). Default: every metric of the model; `[]` for
    none."""
    trials: bool = False
    """Measure the trials of a sweep too, not only runs of `mutransfer train`. Metrics never select a trial."""
    beam: Few = 4
    """Hypotheses per sentence in beam search; 1 is greedy."""
    examples: RowCount = 1000
    """Largest number of examples; the first ones of the part are taken."""
