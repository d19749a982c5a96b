"""Trains with the user's own command, one process per run. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mutransfer.config.load import save_config
from mutransfer.config.schema import RunConfig
from mutransfer.config.trainer import COMMAND
from mutransfer.errors import NothingUsable
from mutransfer.files import write_atomic
from mutransfer.training.command import RUN_GRACE, last_lines, require_program, run_command
from mutransfer.training.folder import TrainFolder, TrainResult
from mutransfer.training.trainers.base import Progress, RunWatch, Trainer, TrialWatch


class CommandTrainer(Trainer):
    """A command per run; the command may use all devices that its process sees."""

    facts = COMMAND

    def require_run(self, config: RunConfig, folder: Path, *, device: str | None) -> None:  # noqa: D102 - see `Trainer`
        require_program(config, folder)

    def require_trials(self, config: RunConfig, folder: Path) -> None:  # noqa: D102 - see `Trainer`
        require_program(config, folder)

    def train(  # noqa: D102 - see `Trainer`
        self, config: RunConfig, folder: TrainFolder, *, device: str | None, watch: RunWatch
    ) -> TrainResult:
        resume = folder.started
        if not folder.config.exists():
            save_config(config, folder.config)
        if not resume:
            write_atomic(folder.metrics, "")  # from here on a run stands in the folder
        result = run_command(
            config,
            folder.root,
            grace=RUN_GRACE,
            resume=resume,
            should_stop=watch.should_stop,
            on_loss=lambda step, loss: watch.on_progress(Progress(step, config.training.steps, loss)),
        )
        if result.outcome == "out_of_memory":
            raise NothingUsable(f"{folder.root}: the command ran out of memory:\n{last_lines(folder.root)}")
        return result

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
        """See `Trainer`. Trials run one after another; the command inherits the worker's device."""
        return [run_command(config, folder) for config, folder in zip(configs, folders, strict=True)]
