"""Trials in a worker: the config with a trial's hparams, trained once on the proxy."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mutransfer.config.executors import EXECUTORS
from mutransfer.config.schema import RunConfig
from mutransfer.errors import UsageError
from mutransfer.executors.base import Executor, Job, JobFailed
from mutransfer.executors.devices import Device
from mutransfer.executors.line import line
from mutransfer.training.trainers import trainer_of
from mutransfer.training.trainers.base import RunFailed, TrialWatch

# Between two questions, where the answer depends on trials that have not ended.
_ASK_SECONDS = 0.05


def run_trials(
    device: Device, *, configs: Sequence[dict[str, Any]], folders: Sequence[str], packed: bool, prune_every: int = 0
) -> list[dict[str, Any]]:
    """Train `configs` (resolved ones of one trainer) and return the fields of their `TrainResult`s.

    `packed` ones train as one program. The coordinator's pruner is asked each `prune_every` steps; 0 without one.
    Where a trial failed, its last lines take the place of the JobFailed's traceback.
    """
    parsed = [RunConfig.model_validate(config) for config in configs]
    try:
        results = trainer_of(parsed[0]).train_trials(
            parsed,
            [Path(folder) for folder in folders],
            device=device.torch_name,
            threads=device.threads,
            packed=packed,
            watch=TrialWatch(lambda: line().beat(), _prunes, prune_every),
        )
    except RunFailed as error:
        raise JobFailed(str(error), error.lines + "\n") from None
    return [asdict(result) for result in results]


def _prunes(step: int, losses: Mapping[int, float]) -> Collection[int]:
    """The coordinator's answer, which may have to wait for other trials."""
    while (pruned := line().ask((step, dict(losses)))) is None:
        time.sleep(_ASK_SECONDS)
    found: list[int] = pruned
    return found


def warm_up(device: Device, *, config: dict[str, Any]) -> None:
    """Prepare a worker for its first trial."""
    parsed = RunConfig.model_validate(config)
    trainer_of(parsed).warm_up(parsed, threads=device.threads)


def make_executor(config: RunConfig, *, workers: int | None = None, threads: int | None = None) -> Executor:
    """The executor that a config chooses; its workers begin to import and to open the data at once.

    `workers` is as `--workers` gives it; each has `threads` CPU threads, by default `search.threads` or 1. UsageError
    if the executor lacks something that the sweep needs, or cannot have that many.
    """
    require_able(config)
    job = Job("mutransfer.sweep.trial:warm_up", {"config": config.resolved()})
    build: Callable[..., Executor] = EXECUTORS.implementation(config.executor)
    threads = threads or config.require_search().threads or 1
    return build(config.executor, threads=threads, workers=workers, warm_up=job)


def require_able(config: RunConfig) -> None:
    """Raise UsageError where the executor of a config lacks something that the sweep needs."""
    section, search = config.executor, config.require_search()
    usual = type(search).model_fields["hang_after"].default
    for able, needs, what in (
        (section.shares_disk, True, "workers that see the run folder, into which trials write their losses"),
        (section.answers_questions, search.pruner is not None, "answers to a worker's questions, for search.pruner"),
        (section.can_end_jobs, search.hang_after not in (0, usual), "a way to end a job, for search.hang_after"),
    ):
        if needs and not able:
            raise UsageError(f"executor {section.kind}: this sweep needs {what}, and it has none; choose another")
