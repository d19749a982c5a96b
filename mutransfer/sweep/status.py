"""The state of sweeps, read without changing them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mutransfer.config.load import load_config
from mutransfer.config.schema import RunConfig
from mutransfer.errors import MutransferError, UsageError
from mutransfer.sweep.confirmation import confirmation
from mutransfer.sweep.folder import SweepFolder, find_sweeps, resolve_sweep
from mutransfer.sweep.record import TrialRecord, completed
from mutransfer.sweep.selection import select
from mutransfer.sweep.stages import Standing, finalists, standing
from mutransfer.sweep.study import Study


@dataclass(frozen=True)
class SweepStatus:
    """The state of one sweep."""

    folder: SweepFolder
    config: RunConfig
    records: tuple[TrialRecord, ...]
    state: str
    """`running`, `finished` or `stopped`."""
    best: TrialRecord | None
    """The winner, or the best trial so far."""
    standing: Standing
    """Stage, and how many of its trials have ended."""


def status(folder: SweepFolder) -> SweepStatus:
    """The state of a sweep; UsageError if its files are damaged."""
    config = load_config(folder.config)
    study = Study(folder.study, None)
    records = tuple(study.records())
    repeats = study.attributes.get("repeats", {})
    selection = None if config.require_search().across else select(config, records, repeats)
    stands = standing(config, records)
    ranking = completed(finalists(config, records))
    to_go = stands.done < stands.total or confirmation(config, ranking, repeats).missing
    state = "running" if folder.is_running else "stopped" if to_go else "finished"
    return SweepStatus(folder, config, records, state, None if selection is None else selection.best, stands)


def newest_finished(runs: Path) -> SweepFolder:
    """The sweep whose study changed last among those that are finished and have a winner; else UsageError."""
    unfinished, damaged = [], []
    for folder in find_sweeps(runs):
        try:
            found = status(folder)
            if found.state == "finished" and found.best is not None:
                return folder
        except MutransferError as error:
            damaged.append(str(error))
        else:
            stands = found.standing
            so_far = f"{stands.done} of {stands.total} trials done{stands.where}"
            why = "no trial completed" if found.state == "finished" else so_far
            unfinished.append(f"{folder.root.name} ({why})")
    if unfinished:
        raise UsageError(
            f"no finished sweep in {runs}; not finished: {', '.join(unfinished)}; name one with --run to use it "
            "unfinished"
        )
    if damaged:
        raise UsageError("no finished sweep in {}: {}".format(runs, "; ".join(damaged)))
    return resolve_sweep(None, runs)
