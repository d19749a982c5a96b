"""Trials as a worker runs them: each the config with its hparams, trained once on the proxy."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mutransfer.config.schema import RunConfig
from mutransfer.executors.base import Job, JobFailed
from mutransfer.executors.devices import Device, worker_devices
from mutransfer.executors.line import line
from mutransfer.executors.local import LocalExecutor
from mutransfer.files import make_folder
from mutransfer.training.command import CommandFailed, run_command
from mutransfer.training.folder import TrainResult

# Between two questions, where the answer depends on trials that have not ended.
_ASK_SECONDS = 0.05


def run_trials(
    device: Device,
    *,
    configs: Sequence[dict[str, Any]],
    folders: Sequence[str],
    packed: bool,
    prune_every: int = 0,
) -> list[dict[str, Any]]:
    """Train `configs` (resolved ones) and return the fields of their `TrainResult`s.

    Args:
        packed: as one program. A trial's losses are the same bits in a pack of any size, one included; without
            packing they may differ in the last one.
        prune_every: steps between two looks of the coordinator's pruner, by the job's line; 0 without one. A trial by
            itself only, where they are not packed.

    Running out of memory is an outcome, of all of them; any other exception is the executor's to report.
    """
    import torch

    from mutransfer.training.learner import is_out_of_memory
    from mutransfer.training.loop import Hooks, fit_pack
    from mutransfer.training.losses import MetricsFile

    class OnLine(Hooks):
        """The job's line: progress, and what the pruner says."""

        def alive(self) -> None:
            line().beat()

        def prunes(self, step: int, losses: Mapping[int, float]) -> Collection[int]:
            while (pruned := line().ask((step, dict(losses)))) is None:
                time.sleep(_ASK_SECONDS)
            found: list[int] = pruned
            return found

    hooks = OnLine()
    hooks.prune_every = prune_every
    torch.set_num_threads(device.threads)
    parsed = [RunConfig.model_validate(config) for config in configs]
    metrics = [MetricsFile(make_folder(Path(folder)) / "metrics.jsonl") for folder in folders]
    try:
        results = fit_pack(parsed, metrics, hooks, device=device.torch_name, packed=packed)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        results = [TrainResult("out_of_memory") for _ in parsed]
    return [asdict(result) for result in results]


def warm_up(device: Device, *, config: dict[str, Any]) -> None:
    """Import what training needs and open the data, so that neither is part of the first trial's time."""
    import torch

    from mutransfer.data import load_data
    from mutransfer.training import pack

    del pack
    torch.set_num_threads(device.threads)
    load_data(RunConfig.model_validate(config).data)


def local_executor(config: RunConfig, *, workers: int | None = None) -> LocalExecutor:
    """Worker processes on this machine's devices, which begin to import and to open the data of `config` at once."""
    threads = config.require_search().threads or 1
    # A command needs nothing of it.
    job = None if config.model.external else Job("mutransfer.sweep.trial:warm_up", {"config": config.resolved()})
    return LocalExecutor(worker_devices(workers=workers, threads=threads), warm_up=job)


def run_commands(
    device: Device, *, configs: Sequence[dict[str, Any]], folders: Sequence[str], packed: bool
) -> list[dict[str, Any]]:
    """`run_trials` for model kind `command`: one after another, each in processes of its own. Imports no torch.

    Raises:
        JobFailed: the command failed; its last lines stand for the traceback.
        UsageError: there is no such program, or its loss is not where the config says.
    """
    del device, packed  # the device is this process's environment, which the command inherits
    results = []
    for config, folder in zip(configs, folders, strict=True):
        try:
            results.append(run_command(RunConfig.model_validate(config), Path(folder)))
        except CommandFailed as error:
            raise JobFailed(str(error), error.lines + "\n") from None
    return [asdict(result) for result in results]
