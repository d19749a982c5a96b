"""The in-process trainer's hooks into the training loop. Imports torch."""

# ruff: noqa: D102 - `Hooks` describes the methods

from __future__ import annotations

import pkgutil
import shutil
from collections.abc import Collection, Mapping

from mutransfer.config.load import save_config
from mutransfer.config.schema import RunConfig
from mutransfer.data.dataset import Dataset, notes_of
from mutransfer.errors import UsageError
from mutransfer.files import write_atomic, write_json
from mutransfer.training.checkpoint import load_checkpoint, save_checkpoint, save_weights
from mutransfer.training.folder import TrainFolder
from mutransfer.training.learner import Learner
from mutransfer.training.loop import Hooks
from mutransfer.training.trainers.base import Progress, RunWatch, TrialWatch


class TrialHooks(Hooks):
    """Reports progress, and asks the pruner."""

    def __init__(self, watch: TrialWatch) -> None:
        self._watch, self.prune_every = watch, watch.prune_every

    def alive(self) -> None:
        self._watch.beat()

    def prunes(self, step: int, losses: Mapping[int, float]) -> Collection[int]:
        return self._watch.prunes(step, losses)


class FolderHooks(Hooks):
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
        if state["step"] > self._config.training.steps:
            raise UsageError(
                f"{checkpoint}: is of step {state['step']}, beyond the {self._config.training.steps} there are"
            )
        try:
            learner.load_state_dict(state)
        except (RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:  # torch's own
            raise UsageError(
                f"{checkpoint}: does not fit the model ({type(error).__name__}); remove it, or train in another folder "
                "(--out)"
            ) from error
        return int(state["step"])

    def save(self, learner: Learner, data: Dataset, steps_done: int) -> None:
        what = {"step": steps_done, "data": data.fingerprint, "plan": learner.plan.fingerprint}
        save_checkpoint(self._folder.checkpoint(steps_done), what | learner.state_dict())

    def finish(self, learner: Learner) -> None:
        save_weights(self._folder.weights, learner.model)
        exporter = self._config.model.exporter
        if exporter is None or not self._config.model.exports:
            return
        # The model in its own library's format too, or why not; the weights stand in either case.
        shutil.rmtree(self._folder.pretrained, ignore_errors=True)  # a previous export of other weights
        self._folder.not_pretrained.unlink(missing_ok=True)
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
