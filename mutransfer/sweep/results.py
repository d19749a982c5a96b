"""What a sweep leaves for people and other programs: `trials.csv` and `best.yaml`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import yaml

from mutransfer.config.schema import RunConfig
from mutransfer.files import write_atomic
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.selection import Selection
from mutransfer.sweep.study import TrialRecord

_COLUMNS = (
    "number", "outcome", "value", "validation_loss", "training_loss", "steps", "seconds", "seed", "error",
)  # fmt: skip


def write_results(
    folder: SweepFolder, config: RunConfig, records: Sequence[TrialRecord], selection: Selection | None
) -> None:
    """Write both files, each whole or not at all; without a selection only the table."""
    write_atomic(folder.table, table(records))
    if selection is not None:
        write_atomic(folder.best, yaml.safe_dump(best(config, selection), sort_keys=False))


def table(records: Sequence[TrialRecord]) -> str:
    """CSV with one row per trial: outcome, losses, then its hparams."""
    params = dict.fromkeys(name for record in records for name in record.params)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_COLUMNS, *params], lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({**{name: getattr(record, name) for name in _COLUMNS}, **record.params})
    return text.getvalue()


def best(config: RunConfig, selection: Selection) -> dict[str, Any]:
    """The winner and what is to be known of it, as plain data."""
    winner = selection.best
    return {
        "trial": winner.number,
        config.require_search().objective: winner.value,
        "swept": winner.params,
        "hparams": config.with_hparams(winner.params).hparams.filled().model_dump(mode="json", exclude_none=True),
        "seed_noise": selection.seed_noise,
        "ties": list(selection.ties),
        "warnings": list(selection.warnings),
    }
