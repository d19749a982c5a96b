"""A training run in a folder of its own: refused if the folder holds another run, resumed on request. Imports no
torch."""

from __future__ import annotations

from collections.abc import Callable

from mutransfer.config.load import differences, load_config
from mutransfer.config.schema import RunConfig
from mutransfer.errors import NothingUsable, UsageError
from mutransfer.files import sole_folder
from mutransfer.training.folder import TrainFolder, TrainResult
from mutransfer.training.trainers import trainer_of
from mutransfer.training.trainers.base import Progress, RunFailed, RunWatch


def train(
    config: RunConfig,
    folder: TrainFolder,
    *,
    device: str = "cpu",
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_note: Callable[[str], None] = lambda text: None,
) -> TrainResult:
    """Train `config` in `folder`: config, plan, metrics, checkpoints, weights and result go there.

    Args:
        device: a torch device: `cpu`, `cuda`, `cuda:1`, `mps`.
        resume: continue what stands in `folder` from its last checkpoint; a finished run is returned as it
            ended. Without it a folder that holds a run is refused.
        should_stop: asked after every step; when true the run is saved and returned as `interrupted`.
        on_note: told what the data's loader has to say, such as how many examples are cut.

    Raises:
        UsageError: `folder` holds a run and `resume` is false, or another config's run, or damaged files, or
            is in use, or cannot be written.
        DataError: the data cannot be used, or a package that a metric needs is not installed.
        NothingUsable: a command failed, and the message has the last lines that it wrote; or memory did not suffice.
    """
    trainer = trainer_of(config)
    chosen = None if config.trainer.several_devices else device
    trainer.require_run(config, folder.root, device=chosen)
    with sole_folder(folder.root, folder.lock, lambda: f"{folder.root}: another process is training here", begun=()):
        if folder.started and not resume:
            raise UsageError(
                f"{folder.root}: holds a run already; continue it with --resume, or choose another folder with --out"
            )
        if folder.config.exists():
            _require_same(config, folder)
        if folder.started:
            result = folder.read_result()
            if result is not None and result.outcome != "interrupted":
                return result
            if not config.trainer.resumes:
                raise UsageError(
                    f"{folder.root}: holds an unfinished run, and the trainer {config.trainer.name} cannot continue "
                    "one; remove the folder, or choose another one with --out"
                )
        try:
            result = trainer.train(config, folder, device=chosen, watch=RunWatch(should_stop, on_progress, on_note))
        except RunFailed as error:
            raise NothingUsable(f"{folder.root}: {error}. Its last lines were:\n{error.lines}") from None
        folder.write_result(result)
        return result


def _require_same(config: RunConfig, folder: TrainFolder) -> None:
    """Resuming with another config would give a run that neither config describes."""
    changed = differences(load_config(folder.config), config, ignore=("name", "search", "provenance"))
    if changed:
        raise UsageError(f"{folder.root}: belongs to another config, which differs in\n  " + "\n  ".join(changed))
