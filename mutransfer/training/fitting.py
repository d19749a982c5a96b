"""The part of the in-process trainer that imports torch: runs and trials through the training loop."""

from __future__ import annotations

import pkgutil
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch

from mutransfer.config.load import save_config
from mutransfer.config.schema import RunConfig
from mutransfer.data.dataset import Dataset, notes_of
from mutransfer.errors import NothingUsable, UsageError
from mutransfer.files import disk_errors, make_folder, write_atomic, write_json
from mutransfer.training.checkpoint import load_checkpoint, save_checkpoint, save_weights
from mutransfer.training.folder import TrainFolder, TrainResult
from mutransfer.training.learner import Learner, is_out_of_memory
from mutransfer.training.loop import Hooks, fit, fit_pack
from mutransfer.training.losses import MetricsFile
from mutransfer.training.trainers.base import Progress, RunWatch, TrialWatch


def fit_run(config: RunConfig, folder: TrainFolder, *, device: str, watch: RunWatch) -> TrainResult:
    """Train `config` in `folder`: config, plan, metrics, checkpoints and weights go there.

    Raises:
        NothingUsable: the memory does not suffice.
        UsageError: the checkpoint is of other data or of another plan.
    """
    try:
        return fit(config, MetricsFile(folder.metrics), _FolderHooks(config, folder, watch), device=device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise NothingUsable(
            f"{folder.root}: out of memory on {device}: a model of width {config.model.width} does not fit with its "
            f"gradients, its optimizer's state and batches of {config.training.batch_size}; take smaller batches "
            "(training.batch_size), training.precision bf16, or a device with more memory"
        ) from error


def fit_trials(
    configs: Sequence[RunConfig],
    folders: Sequence[Path],
    *,
    device: str,
    threads: int,
    packed: bool,
    watch: TrialWatch,
) -> list[TrainResult]:
    """Train `configs`, and write `metrics.jsonl` into the folder of each. Too little memory is an outcome of all."""
    torch.set_num_threads(threads)
    metrics = [MetricsFile(make_folder(folder) / "metrics.jsonl") for folder in folders]
    try:
        return fit_pack(configs, metrics, _TrialHooks(watch), device=device, packed=packed)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return [TrainResult("out_of_memory") for _ in configs]


class _TrialHooks(Hooks):
    """Reports progress, and asks the pruner."""

    def __init__(self, watch: TrialWatch) -> None:
        self._watch, self.prune_every = watch, watch.prune_every

    def alive(self) -> None:
        self._watch.beat()

    def prunes(self, step: int, losses: Mapping[int, float]) -> Collection[int]:
        return self._watch.prunes(step, losses)


class _FolderHooks(Hooks):
    """Checkpoints, plan and weights of a run that has a folder."""

    def __init__(self, config: RunConfig, folder: TrainFolder, watch: RunWatch) -> None:
        self._config, self._folder, self._watch = config, folder, watch

    def start(self, learner: Learner, data: Dataset) -> int:
        for note in notes_of(data):
            self._watch.on_note(note)
        checkpoint = self._folder.latest_checkpoint()
        if not self._folder.config.exists():
            save_config(self._config, self._folder.config)
        if checkpoint is None:
            write_json(self._folder.plan, learner.plan.as_dict())
            return 0
        state = load_checkpoint(checkpoint, learner.device)
        for what, now in (("data", data.fingerprint), ("plan", learner.plan.fingerprint)):
            if state[what] != now:
                raise UsageError(
                    f"{checkpoint}: the {what} has changed since it was saved, so the run cannot continue; "
                    "train in another folder (--out)"
                )
        learner.load_state_dict(state)
        return int(state["step"])

    def save(self, learner: Learner, data: Dataset, steps_done: int) -> None:
        what = {"step": steps_done, "data": data.fingerprint, "plan": learner.plan.fingerprint}
        save_checkpoint(self._folder.checkpoint(steps_done), what | learner.state_dict())

    def finish(self, learner: Learner) -> None:
        with disk_errors(self._folder.weights):
            save_weights(self._folder.weights, learner.model)
        exporter = self._config.model.exporter
        if exporter is None:
            return
        # The model in its own library's format too, or why not; the weights stand in either case.
        shutil.rmtree(self._folder.pretrained, ignore_errors=True)  # a previous export of other weights
        try:
            pkgutil.resolve_name(exporter)(self._config, self._folder.weights, self._folder.pretrained)
        except UsageError as error:
            write_atomic(self._folder.not_pretrained, f"{error}\n")

    def measures(self) -> bool:
        return True

    def progress(self, progress: Progress) -> None:
        self._watch.on_progress(progress)

    def should_stop(self) -> bool:
        return self._watch.should_stop()
