"""The files of a sweep for people and other programs: `trials.csv` and `best.yaml`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from mutransfer.config.schema import RunConfig
from mutransfer.config.source import dump_yaml
from mutransfer.files import write_atomic
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.record import TrialRecord
from mutransfer.sweep.selection import Selection
from mutransfer.training.folder import FIGURES

_COLUMNS = (
    "number", "stage", "outcome", "rank", "value", "mean", *(name for name in FIGURES if name != "metrics"), "seed",
    "error",
)  # fmt: skip


def write_results(
    folder: SweepFolder, config: RunConfig, records: Sequence[TrialRecord], selection: Selection | None
) -> None:
    """Write both files, each whole or not at all; without a selection only the table."""
    write_atomic(folder.table, table(records, selection))
    if selection is not None:
        write_atomic(folder.best, dump_yaml(best(config, selection)))


def table(records: Sequence[TrialRecord], selection: Selection | None = None) -> str:
    """CSV with one row per trial, in the last stage that trained it: outcome, rank, objective, …, then its hparams.

    Rank 1 wins; a trial without a rank did not complete the last stage. `mean` is over the seeds of a confirmation.
    """
    params = dict.fromkeys(name for record in records for name in record.params)
    metrics = dict.fromkeys(name for record in records for name in record.furthest.metrics)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_COLUMNS, *metrics, *params], lineterminator="\n")
    writer.writeheader()
    ranks = {} if selection is None else {one.number: rank for rank, one in enumerate(selection.ranking, start=1)}
    means = {} if selection is None else selection.means
    for record in (one.furthest for one in records):
        ranked = {"rank": ranks.get(record.number), "mean": means.get(record.number)}
        hidden = FIGURES if record.outcome is None else ()
        known = {name: getattr(record, name, None) for name in _COLUMNS if name not in hidden}
        writer.writerow({**known, **ranked, **record.metrics, **record.params})
    return text.getvalue()


def best(config: RunConfig, selection: Selection) -> dict[str, Any]:
    """The winner and its facts, as plain data."""
    winner = selection.best
    return {
        "trial": winner.number,
        config.require_search().objective: winner.value,
        "swept": winner.params,
        "hparams": config.with_hparams(winner.params).hparams.filled().model_dump(mode="json", exclude_none=True),
        "confirmed": [
            {"trial": record.number, "mean": selection.means[record.number], "runs": selection.runs}
            for record in selection.ranking
            if record.number in selection.means
        ],
        "passed_over": [
            {"trial": record.number, "seed": int(one.seed), "outcome": one.outcome, "error": one.error}
            for record, one in selection.passed_over
        ],
        "seed_noise": selection.seed_noise,
        "difference_noise": selection.difference_noise,
        "ties": list(selection.ties),
        "warnings": list(selection.warnings),
    }
