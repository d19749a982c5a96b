"""The training loop: batches in, losses out. Sweeps, targets and checks all train through `fit`."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mutransfer.config.schema import RunConfig
from mutransfer.data import load_data
from mutransfer.data.dataset import Batch, Dataset
from mutransfer.training.alike import require_alike
from mutransfer.training.folder import Outcome, TrainResult
from mutransfer.training.learner import Learner
from mutransfer.training.loss import counted, no_targets
from mutransfer.training.losses import MetricsFile, Monitor, Pending
from mutransfer.training.metrics import measure
from mutransfer.training.pack import PackLearner
from mutransfer.training.schedules import Schedule
from mutransfer.training.trainers.base import Progress

_PACK_LOOKS_EVERY = 4
_FLUSH_SECONDS = 0.2


class Hooks:
    """Hooks of a caller into the loop; this base class does nothing."""

    prune_every: int = 0
    """Steps between two questions of `prunes`; 0 asks none."""

    def start(self, learner: Learner, data: Dataset) -> int:
        """Prepare the learner, and return the number of steps that are already done."""
        return 0

    def save(self, learner: Learner, data: Dataset, steps_done: int) -> None:
        """Called every `training.checkpoint_every` steps and when the run is interrupted."""

    def finish(self, learner: Learner) -> None:
        """Called once, after the last step of a run that completed."""

    def measures(self) -> bool:
        """Whether metrics beside the loss are wanted, even where `evaluation.trials` does not ask for them."""
        return False

    def progress(self, progress: Progress) -> None:
        """Called whenever losses have come in."""

    def should_stop(self) -> bool:
        """Asked after every step."""
        return False

    def prunes(self, step: int, losses: Mapping[int, float]) -> Collection[int]:
        """Members that end after `step` steps, by their positions in the original pack.

        Args:
            losses: by position, of those still training: the validation loss where there was a validation at this
                step, else the mean training loss of the last `prune_every` steps.
        """
        return ()

    def alive(self) -> None:
        """Called after every step and every batch of a validation or a metric."""


def fit(config: RunConfig, metrics: MetricsFile, hooks: Hooks, *, device: str = "cpu") -> TrainResult:
    """`fit_pack` for one run. On CPU, with the same number of threads, its losses depend on the config alone, bit by
    bit."""
    return fit_pack([config], [metrics], hooks, device=device, packed=False)[0]


def fit_pack(
    configs: Sequence[RunConfig],
    metrics: Sequence[MetricsFile],
    hooks: Hooks,
    *,
    device: str = "cpu",
    packed: bool = True,
) -> list[TrainResult]:
    """Train `configs` to their end, to their divergence, or until the hooks say stop.

    Args:
        metrics: where losses go; when `hooks.start` returns a step, its earlier records are kept.
        device: a torch device: `cpu`, `cuda`, `cuda:1`, `mps`.
        packed: train them as one program (`training.pack`), even a single one; otherwise one after another.

    A member that diverges is dropped and costs nothing from then on. The hooks' `start`, `save` and `finish` are for
    a single run, and `should_stop` ends all. Each member's seconds are its share of the pack's.

    Raises:
        CannotPack: the runs differ in more than hparams and seed, or the model has an operation without a batching
            rule.
        DataError: the data cannot be used.
        UsageError: files cannot be read or written.
    """
    place = torch.device(device)
    if packed:
        require_alike(configs[0], load_data(configs[0].data))
        return _Fit(configs, metrics, hooks, lambda: PackLearner(configs, place)).run()
    results = []
    for config, file in zip(configs, metrics, strict=True):
        results += _Fit([config], [file], hooks, functools.partial(Learner, config, place)).run()
    return results


class _Member:
    """One run of a pack: its config, its losses, how it ended."""

    def __init__(self, config: RunConfig, metrics: MetricsFile) -> None:
        self.config, self.metrics = config, metrics
        self.schedule = Schedule.of(config.hparams, config.training.steps)
        self.monitor = Monitor(config.training.divergence_factor)
        self.validation_loss: float | None = None
        self.metrics_found: dict[str, float] = {}
        self.result: TrainResult | None = None
        """How it ended; None while it trains."""

    def take(self, losses: Sequence[float]) -> list[tuple[int, float]]:
        """Judge and write the losses of the next steps; those that count, each with its step."""
        first = len(self.monitor.losses)
        lr, schedule = self.config.hparams.lr, self.schedule
        counted = list(enumerate(self.monitor.add(losses), start=first))
        for step, value in counted:
            self.metrics.add({"step": step, "loss": value, "lr": lr * schedule.factor(step)})
        return counted

    def end(self, outcome: Outcome, seconds: float, parameters: int) -> None:
        """Record how it ended, and write the remaining losses."""
        self.result = TrainResult(
            outcome=outcome,
            steps=len(self.monitor.losses),
            training_loss=self.monitor.final_loss(),
            validation_loss=self.validation_loss,
            seconds=seconds,
            parameters=parameters,
            metrics=self.metrics_found,
        )
        self.metrics.flush()


class _Fit:
    """One call of `fit_pack`."""

    def __init__(
        self,
        configs: Sequence[RunConfig],
        metrics: Sequence[MetricsFile],
        hooks: Hooks,
        make: Callable[[], Learner | PackLearner],
    ) -> None:
        self._data = load_data(configs[0].data)
        self._began = time.perf_counter()
        self._members = [_Member(*pair) for pair in zip(configs, metrics, strict=True)]
        self._alive = list(self._members)
        self._training, self._hooks, self._learner = configs[0].training, hooks, make()
        # On a GPU, reading a loss waits for the device; on a CPU it costs a little per member.
        every = 1 if isinstance(self._learner, Learner) else _PACK_LOOKS_EVERY
        if self._learner.device.type != "cpu":
            every = self._training.log_every
        self._pending = Pending(min(every, self._training.log_every))
        self._flushed = self._began

    def run(self) -> list[TrainResult]:
        """Train to the end."""
        training, hooks = self._training, self._hooks
        done = hooks.start(self._learner, self._data) if isinstance(self._learner, Learner) else 0
        for member in self._members:
            member.monitor.add(member.metrics.restart(done))
        while done < training.steps and self._alive:
            self._pending.add(self._step(done))
            done += 1
            hooks.alive()
            saving, stopping = done % training.checkpoint_every == 0, hooks.should_stop()
            looking = hooks.prune_every > 0 and done % hooks.prune_every == 0 and done < training.steps
            validating = training.eval_every > 0 and done % training.eval_every == 0 and done < training.steps
            if self._pending.due or saving or stopping or validating or looking or done == training.steps:
                self._fetch()
            if not self._alive:
                break
            validated = self._evaluate() if validating else None
            if validated is not None:
                for member, loss in zip(self._alive, validated, strict=True):
                    member.metrics.add({"step": done - 1, "validation_loss": loss})
            if looking and not stopping:
                self._prune(done, validated)
            if saving or stopping or (done % training.log_every == 0 and self._flush_is_due()):
                for member in self._alive:
                    member.metrics.flush()
            interrupted = stopping and done < training.steps
            if (saving or interrupted) and isinstance(self._learner, Learner):
                hooks.save(self._learner, self._data, done)
            if interrupted:
                self._end(self._alive, "interrupted")
        if self._alive:
            self._complete(done)
        return [member.result for member in self._members if member.result is not None]

    def _flush_is_due(self) -> bool:
        """This opens a file per member, which is slow compared with a short step of a large pack."""
        now = time.perf_counter()
        due = now - self._flushed > _FLUSH_SECONDS
        self._flushed = now if due else self._flushed
        return due

    def _step(self, step: int) -> Tensor:
        """One update; the losses (N,) of those still training."""
        seeds = [member.config.training.seed for member in self._alive]
        size = self._training.batch_size
        batches = {seed: self._data.batch(step, batch_size=size, seed=seed) for seed in dict.fromkeys(seeds)}
        if isinstance(self._learner, Learner):
            return self._learner.train_step(step, batches[seeds[0]])[None]
        # One batch where all members have one seed, else one each.
        return self._learner.train_step(step, [batches[seed] for seed in (seeds if len(batches) > 1 else seeds[:1])])

    def _evaluate(self) -> list[float]:
        def batches() -> Iterator[Batch]:
            training = self._training
            for batch in self._data.validation(batch_size=training.batch_size, batches=training.eval_batches):
                self._hooks.alive()
                yield batch

        found = self._learner.evaluate(batches())
        return found if isinstance(found, list) else [found]

    def _fetch(self) -> None:
        """Bring pending losses to the host, and drop the members that they show to have diverged."""
        fetched = self._pending.fetch()
        for member, losses in zip(self._alive if fetched else (), fetched, strict=True):
            for step, loss in member.take(losses):
                self._hooks.progress(Progress(step + 1, self._training.steps, loss))
        diverged = [member for member in self._alive if member.monitor.diverged]
        for member in diverged:
            self._require_targets(member)
        self._end(diverged, "diverged")

    def _require_targets(self, member: _Member) -> None:
        """A NaN without targets is not a divergence. This is checked afterwards, since checking every batch would cost
        time."""
        step, seed = len(member.monitor.losses) - 1, member.config.training.seed
        if math.isfinite(member.monitor.losses[step]):
            return
        batch = self._data.batch(step, batch_size=self._training.batch_size, seed=seed)
        if not counted(batch, member.config.model.criterion):
            raise no_targets(member.config, f"the training batch of step {step} (from 0, seed {seed})")

    def _prune(self, done: int, validated: Sequence[float] | None) -> None:
        """Drop the members that the caller gives up."""
        every = self._hooks.prune_every
        found = validated or [statistics.fmean(member.monitor.losses[-every:]) for member in self._alive]
        places = [self._members.index(member) for member in self._alive]
        pruned = self._hooks.prunes(done, dict(zip(places, found, strict=True)))
        self._end([self._members[place] for place in pruned], "pruned")

    def _complete(self, done: int) -> None:
        """Validate the members that have come to the end of their steps."""
        for member, loss in zip(self._alive, self._evaluate(), strict=True):
            member.metrics.add({"step": done - 1, "validation_loss": loss})
            member.validation_loss = loss if math.isfinite(loss) else None
        # Not finite: the last update blew up, after the last training loss.
        fine = [member for member in self._alive if member.validation_loss is not None]
        if fine and isinstance(self._learner, Learner):
            self._hooks.finish(self._learner)
        learner, asked = self._learner, self._hooks.measures() or self._members[0].config.evaluation.trials
        for member in fine if asked else ():
            model = learner.model if isinstance(learner, Learner) else learner.member(self._alive.index(member))
            member.metrics_found = measure(member.config, model, self._data, learner.device, alive=self._hooks.alive)
        seconds = self._share()
        for member in self._alive:
            member.end("completed" if member in fine else "diverged", seconds, self._learner.plan.parameter_count)

    def _end(self, members: Sequence[_Member], outcome: Outcome) -> None:
        """End these members; the others continue."""
        if not members:
            return
        seconds = self._share()
        for member in members:
            member.end(outcome, seconds, self._learner.plan.parameter_count)
        kept = [index for index, member in enumerate(self._alive) if member not in members]
        self._alive = [self._alive[index] for index in kept]
        if kept and isinstance(self._learner, PackLearner):
            self._learner.keep(kept)

    def _share(self) -> float:
        """A member's share of the time so far."""
        return (time.perf_counter() - self._began) / len(self._members)
