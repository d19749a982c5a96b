"""Trains the models of this project in this process, with torch. Imports torch only when it is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mutransfer.config.schema import RunConfig
from mutransfer.config.trainer import IN_PROCESS
from mutransfer.data import load_data
from mutransfer.errors import NothingUsable
from mutransfer.files import make_folder
from mutransfer.training.folder import TrainFolder, TrainResult
from mutransfer.training.losses import MetricsFile
from mutransfer.training.trainers.base import RunWatch, Trainer, TrialWatch


class InProcessTrainer(Trainer):
    """The project's own training loop, `training.loop`."""

    facts = IN_PROCESS

    def require_run(self, config: RunConfig, folder: Path, *, device: str | None) -> None:
        """See `Trainer`. A run that is continued was tried when it began."""
        if TrainFolder(folder).started:
            return
        from mutransfer.training.memory import require_memory
        from mutransfer.training.metrics import measures_of
        from mutransfer.training.tryout import try_out

        load_data(config.data)
        measures_of(config)
        require_memory(config, device or "cpu")
        try_out(config)

    def require_trials(self, config: RunConfig, folder: Path) -> None:
        """See `Trainer`. Only foreign code is tried; a coordinator otherwise needs no torch."""
        if config.model.foreign:
            from mutransfer.training.tryout import try_out

            load_data(config.data)
            try_out(config)

    def train(  # noqa: D102 - see `Trainer`
        self, config: RunConfig, folder: TrainFolder, *, device: str | None, watch: RunWatch
    ) -> TrainResult:
        from mutransfer.training.fitting import FolderHooks
        from mutransfer.training.learner import is_out_of_memory
        from mutransfer.training.loop import fit

        place = device or "cpu"
        try:
            return fit(config, MetricsFile(folder.metrics), FolderHooks(config, folder, watch), device=place)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise NothingUsable(
                f"{folder.root}: out of memory on {place}: a model of width {config.model.width} does not fit with "
                f"its gradients, its optimizer's state and batches of {config.training.batch_size}; take smaller "
                "batches (training.batch_size), training.precision bf16, or a device with more memory"
            ) from error

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
        """See `Trainer`.

        A trial's losses have the same bits in a pack of any size, including 1. Without packing the last bit may differ.
        """
        import torch

        from mutransfer.training.fitting import TrialHooks
        from mutransfer.training.learner import is_out_of_memory
        from mutransfer.training.loop import fit_pack

        torch.set_num_threads(threads)
        metrics = [MetricsFile(make_folder(folder) / "metrics.jsonl") for folder in folders]
        try:
            return fit_pack(configs, metrics, TrialHooks(watch), device=device, packed=packed)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return [TrainResult("out_of_memory") for _ in configs]

    def warm_up(self, config: RunConfig, *, threads: int) -> None:  # noqa: D102 - see `Trainer`
        import torch

        from mutransfer.training import fitting

        del fitting
        torch.set_num_threads(threads)
        load_data(config.data)
