"""The training loop: batches in, losses out. Sweeps, targets and checks all train through `fit`."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from mutransfer.config.schema import RunConfig
from mutransfer.data import load_data
from mutransfer.data.dataset import Dataset
from mutransfer.training.folder import Outcome, TrainResult
from mutransfer.training.learner import Learner
from mutransfer.training.metrics import MetricsFile, Monitor


@dataclass(frozen=True)
class Progress:
    """What a caller is told whenever losses have come in."""

    step: int
    """Steps done."""
    steps: int
    loss: float


class Hooks:
    """What a caller may add to the loop; does nothing by itself."""

    def start(self, learner: Learner, data: Dataset) -> int:
        """Bring the learner to where the run starts; the number of steps already done."""
        del learner, data
        return 0

    def save(self, learner: Learner, data: Dataset, steps_done: int) -> None:
        """Called every `training.checkpoint_every` steps and when the run is interrupted."""

    def finish(self, learner: Learner) -> None:
        """Called once, after the last step of a run that completed."""

    def progress(self, progress: Progress) -> None:
        """Called whenever losses have come in."""

    def should_stop(self) -> bool:
        """Asked after every step."""
        return False


def fit(config: RunConfig, metrics: MetricsFile, hooks: Hooks, *, device: str = "cpu") -> TrainResult:
    """Train `config` to its end, to its divergence, or until the hooks say stop.

    Args:
        metrics: where losses go; when `hooks.start` returns a step, its earlier records are kept.
        device: a torch device: `cpu`, `cuda`, `cuda:1`, `mps`.

    On CPU, with the same number of threads, losses are a function of the config alone, bit by bit.

    Raises:
        DataError: the data cannot be used.
        UsageError: files cannot be read or written.
    """
    training, began = config.training, time.perf_counter()
    place = torch.device(device)
    data = load_data(config.data)
    learner = Learner(config, place)
    # On a GPU every look at a loss waits for the device; on a CPU it is free.
    monitor = Monitor(training.divergence_factor, 1 if place.type == "cpu" else training.log_every)
    first = hooks.start(learner, data)
    monitor.replay(metrics.restart(first))
    outcome: Outcome = "completed"
    done = first

    def evaluate() -> float:
        batches = data.validation(batch_size=training.batch_size, batches=training.eval_batches)
        return learner.evaluate(batches)

    def fetch() -> None:
        for value in monitor.fetch():
            step = len(monitor.losses) - 1
            metrics.add({"step": step, "loss": value, "lr": config.hparams.lr * learner.lr_factor(step)})
            hooks.progress(Progress(step + 1, training.steps, value))

    for step in range(first, training.steps):
        monitor.add(learner.train_step(step, data.batch(step, batch_size=training.batch_size, seed=training.seed)))
        done = step + 1
        saving, stopping = done % training.checkpoint_every == 0, hooks.should_stop()
        if monitor.due or saving or stopping:
            fetch()
        if monitor.diverged:
            break
        if training.eval_every and done % training.eval_every == 0 and done < training.steps:
            fetch()
            metrics.add({"step": step, "validation_loss": evaluate()})
        if done % training.log_every == 0 or saving or stopping:
            metrics.flush()
        if stopping and done < training.steps:
            outcome = "interrupted"
        if saving or outcome == "interrupted":
            hooks.save(learner, data, done)
        if outcome == "interrupted":
            break
    fetch()
    if monitor.diverged:
        outcome, done = "diverged", len(monitor.losses)
    validation_loss = None
    if outcome == "completed":
        validation_loss = evaluate()
        metrics.add({"step": done - 1, "validation_loss": validation_loss})
        if math.isfinite(validation_loss):
            hooks.finish(learner)
        else:  # the last update blew up, after the last training loss
            outcome, validation_loss = "diverged", None
    metrics.flush()
    return TrainResult(
        outcome=outcome,
        steps=done,
        training_loss=monitor.final_loss(),
        validation_loss=validation_loss,
        seconds=time.perf_counter() - began,
        parameters=learner.plan.parameter_count,
    )
