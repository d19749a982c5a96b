"""One trial as a worker runs it: the config with this trial's hparams, trained once on the proxy."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mutransfer.config.schema import RunConfig
from mutransfer.executors.devices import Device
from mutransfer.files import make_folder
from mutransfer.training.folder import TrainResult


def run_trial(device: Device, *, config: dict[str, Any], folder: str) -> dict[str, Any]:
    """Train `config` (a resolved one) and return the fields of its `TrainResult`.

    Running out of memory is an outcome; any other exception is the executor's to report.
    """
    import torch

    from mutransfer.training.loop import Hooks, fit
    from mutransfer.training.metrics import MetricsFile

    torch.set_num_threads(device.threads)
    parsed = RunConfig.model_validate(config)
    root = make_folder(Path(folder))
    try:
        result = fit(parsed, MetricsFile(root / "metrics.jsonl"), Hooks(), device=device.torch_name)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        result = TrainResult("out_of_memory", 0, None, None, 0.0, 0)
    return asdict(result)


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    # torch's CPU allocator raises a plain RuntimeError
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
