"""A training run in a folder of its own: refused where another run stands, resumed when asked to."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mutransfer.config.load import differences, load_config, save_config
from mutransfer.config.schema import RunConfig
from mutransfer.data import load_data
from mutransfer.data.dataset import Dataset, notes_of
from mutransfer.errors import NothingUsable, UsageError
from mutransfer.files import disk_errors, sole_folder, write_atomic, write_json
from mutransfer.training.checkpoint import load_checkpoint, save_checkpoint, save_weights
from mutransfer.training.command import RUN_GRACE, CommandFailed, last_lines, require_program, run_command
from mutransfer.training.folder import TrainFolder, TrainResult
from mutransfer.training.learner import Learner, is_out_of_memory
from mutransfer.training.loop import Hooks, Progress, fit
from mutransfer.training.losses import MetricsFile
from mutransfer.training.memory import require_memory
from mutransfer.training.metrics import measures_of
from mutransfer.training.tryout import try_out


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
    external = config.model.external
    if not folder.started and not external:
        load_data(config.data)  # what it may refuse is refused before anything is written
        measures_of(config)
        require_memory(config, device)
        try_out(config)
    elif external:
        require_program(config, folder.root)
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
        if external:
            result = _run_command(config, folder, should_stop, on_progress)
        else:
            hooks = _FolderHooks(config, folder, should_stop, on_progress, on_note)
            with _enough_memory(config, folder, device):
                result = fit(config, MetricsFile(folder.metrics), hooks, device=device)
        folder.write_result(result)
        return result


def _run_command(
    config: RunConfig, folder: TrainFolder, should_stop: Callable[[], bool], on_progress: Callable[[Progress], None]
) -> TrainResult:
    """The command of `config`, with all devices of this machine, in the run's folder."""
    resume = folder.started
    if not folder.config.exists():
        save_config(config, folder.config)
    if not resume:
        write_atomic(folder.metrics, "")  # from here on a run stands in the folder
    try:
        result = run_command(
            config,
            folder.root,
            grace=RUN_GRACE,
            resume=resume,
            should_stop=should_stop,
            on_loss=lambda step, loss: on_progress(Progress(step, config.training.steps, loss)),
        )
    except CommandFailed as error:
        raise NothingUsable(f"{folder.root}: {error}. Its last lines were:\n{error.lines}") from None
    if result.outcome == "out_of_memory":
        raise NothingUsable(f"{folder.root}: the command ran out of memory:\n{last_lines(folder.root)}")
    return result


@contextmanager
def _enough_memory(config: RunConfig, folder: TrainFolder, device: str) -> Iterator[None]:
    """A model too large for the device is no bug."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise NothingUsable(
            f"{folder.root}: out of memory on {device}: a model of width {config.model.width} does not fit with its "
            f"gradients, its optimizer's state and batches of {config.training.batch_size}; take smaller batches "
            "(training.batch_size), training.precision bf16, or a device with more memory"
        ) from error


class _FolderHooks(Hooks):
    """Checkpoints, plan and weights of a run that has a folder."""

    def __init__(
        self,
        config: RunConfig,
        folder: TrainFolder,
        should_stop: Callable[[], bool],
        on_progress: Callable[[Progress], None],
        on_note: Callable[[str], None],
    ) -> None:
        self._config = config
        self._folder, self._should_stop = folder, should_stop
        self._on_progress, self._on_note = on_progress, on_note

    def start(self, learner: Learner, data: Dataset) -> int:
        for note in notes_of(data):
            self._on_note(note)
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
                    f"{checkpoint}: the {what} has changed since it was saved, and a run on two would be neither; "
                    "train in another folder (--out)"
                )
        learner.load_state_dict(state)
        return int(state["step"])

    def save(self, learner: Learner, data: Dataset, steps_done: int) -> None:
        state = {
            "step": steps_done,
            "data": data.fingerprint,
            "plan": learner.plan.fingerprint,
            **learner.state_dict(),
        }
        save_checkpoint(self._folder.checkpoint(steps_done), state)

    def finish(self, learner: Learner) -> None:
        with disk_errors(self._folder.weights):
            save_weights(self._folder.weights, learner.model)
        self._export()

    def _export(self) -> None:
        """The trained model in its own library's format too, or why not; the weights stand in either case."""
        exporter = self._config.model.exporter
        if exporter is None:
            return
        shutil.rmtree(self._folder.pretrained, ignore_errors=True)  # of these weights too, if it is there
        home, _, name = exporter.partition(":")
        try:
            getattr(importlib.import_module(home), name)(self._config, self._folder.weights, self._folder.pretrained)
        except UsageError as error:
            write_atomic(self._folder.not_pretrained, f"{error}\n")

    def measures(self) -> bool:
        return True

    def progress(self, progress: Progress) -> None:
        self._on_progress(progress)

    def should_stop(self) -> bool:
        return self._should_stop()


def _require_same(config: RunConfig, folder: TrainFolder) -> None:
    """Resuming with another config would give a run that neither config describes."""
    changed = differences(load_config(folder.config), config, ignore=("name", "search", "provenance"))
    if changed:
        raise UsageError(f"{folder.root}: belongs to another config, which differs in\n  " + "\n  ".join(changed))
