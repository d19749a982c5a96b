"""How sweeps stand, read without touching them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mutransfer.config.load import load_config
from mutransfer.config.schema import RunConfig
from mutransfer.errors import MutransferError, UsageError
from mutransfer.sweep.folder import SweepFolder, find_sweeps, resolve_sweep
from mutransfer.sweep.study import Study, TrialRecord, completed


@dataclass(frozen=True)
class SweepStatus:
    """How one sweep stands."""

    folder: SweepFolder
    config: RunConfig
    records: tuple[TrialRecord, ...]
    state: str
    """`running`, `finished` or `stopped`."""

    @property
    def done(self) -> int:
        """Trials that have ended."""
        return sum(record.outcome is not None for record in self.records)

    @property
    def total(self) -> int:
        """Trials there will be."""
        return max(self.config.require_search().trial_count, len(self.records))

    @property
    def best(self) -> TrialRecord | None:
        """The best trial so far."""
        return next(iter(completed(self.records)), None)


def status(folder: SweepFolder) -> SweepStatus:
    """How a sweep stands.

    Raises:
        UsageError: its files are damaged.
    """
    config = load_config(folder.config)
    records = tuple(Study(folder.study, None).records())
    ended = sum(record.outcome is not None for record in records)
    total = config.search.trial_count if config.search else 0
    state = "running" if folder.is_running else "finished" if ended >= total else "stopped"
    return SweepStatus(folder, config, records, state)


def newest_finished(runs: Path) -> SweepFolder:
    """The sweep whose study changed last among those with all trials ended.

    Raises:
        UsageError: there is none.
    """
    unfinished, damaged = [], []
    for folder in find_sweeps(runs):
        try:
            if status(folder).state == "finished":
                return folder
        except MutransferError as error:
            damaged.append(str(error))
        else:
            unfinished.append(folder.root.name)
    if unfinished:
        raise UsageError(
            f"no finished sweep in {runs}; not finished: {', '.join(unfinished)}; name one with --run to take it as it "
            "stands"
        )
    if damaged:
        raise UsageError("no finished sweep in {}: {}".format(runs, "; ".join(damaged)))
    return resolve_sweep(None, runs)
