"""The contract between this project and what trains its runs. Imports no torch.

A trainer is stateless: one object may serve any number of configs. `mutransfer.testing.trainers` has the tests that
every trainer must pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mutransfer.config.schema import RunConfig
from mutransfer.config.trainer import TrainerFacts
from mutransfer.training.folder import TrainFolder, TrainResult


class RunFailed(Exception):
    """One run failed. `lines` are the last lines that it wrote."""

    def __init__(self, message: str, lines: str) -> None:
        super().__init__(message)
        self.lines = lines


@dataclass(frozen=True)
class Progress:
    """What a caller is told whenever losses have come in."""

    step: int
    """Steps done."""
    steps: int
    loss: float


@dataclass(frozen=True)
class RunWatch:
    """The caller's side of one run."""

    should_stop: Callable[[], bool] = lambda: False
    """Asked after every step, or several times a second. When true, the run is saved and ends as `interrupted`."""
    on_progress: Callable[[Progress], None] = lambda progress: None
    on_note: Callable[[str], None] = lambda text: None
    """Told what a user should know about the data, such as how many examples are cut."""


@dataclass(frozen=True)
class TrialWatch:
    """The coordinator's side of trials. Trainers that are not `watched` leave it alone."""

    beat: Callable[[], None] = lambda: None
    """Called whenever the trials go on."""
    prunes: Callable[[int, Mapping[int, float]], Collection[int]] = lambda step, losses: ()
    """Called with the steps done and `{position: loss}`; returns the positions of trials that must end now."""
    prune_every: int = 0
    """Steps between two calls of `prunes`; 0 without a pruner."""


class Trainer(ABC):
    """Trains runs."""

    facts: ClassVar[TrainerFacts]
    """What it can do."""

    @abstractmethod
    def require_run(self, config: RunConfig, folder: Path, *, device: str | None) -> None:
        """Refuse a run that cannot work, before anything is written: raise the `MutransferError` that says what the
        user must change. `device` as for `train`."""

    @abstractmethod
    def require_trials(self, config: RunConfig, folder: Path) -> None:
        """Refuse a sweep whose trials cannot work, before anything is written. It runs in the coordinator's process.

        Raises `MutransferError` if what the user must change.
        """

    @abstractmethod
    def train(self, config: RunConfig, folder: TrainFolder, *, device: str | None, watch: RunWatch) -> TrainResult:
        """Train `config` in `folder`, or continue the run that stands there.

        It writes `folder.config` and `folder.metrics`. The caller holds the folder's lock and writes the result.

        Args:
            device: a torch device; None for a trainer that uses several devices.

        Raises:
            RunFailed: the run failed.
            NothingUsable: the memory does not suffice.
            UsageError: the folder does not fit the config.
        """

    @abstractmethod
    def train_trials(
        self,
        configs: Sequence[RunConfig],
        folders: Sequence[Path],
        *,
        device: str,
        threads: int,
        packed: bool,
        watch: TrialWatch,
    ) -> list[TrainResult]:
        """Train trials in a worker's process, from the beginning, and write `metrics.jsonl` into each one's folder.

        Too little memory is an outcome (`out_of_memory`) and not an error.

        Args:
            device: the worker's torch device.
            threads: CPU threads of the worker.
            packed: train all of them as one program.

        Raises:
            RunFailed: a trial failed.
        """

    def warm_up(self, config: RunConfig, *, threads: int) -> None:
        """Import and open what training needs, so that the first trial does not wait for it."""
        del config, threads
