"""Runs of a user's own trainer: one command per run, its losses read while it runs. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from mutransfer.config import placeholders
from mutransfer.config.models import CommandSection
from mutransfer.config.schema import RunConfig
from mutransfer.errors import UsageError
from mutransfer.files import disk_errors, make_folder, open_file
from mutransfer.training.command_losses import Reading, Tail, find
from mutransfer.training.folder import Outcome, TrainResult
from mutransfer.training.losses import MetricsFile
from mutransfer.training.trainers.base import RunFailed

TRIAL_GRACE, RUN_GRACE = 2.0, 60.0
"""Seconds between SIGTERM and SIGKILL: a trial needs no checkpoint, the target run does."""
STDOUT, STDERR = "stdout.txt", "stderr.txt"
_LOCK, _PID = ".lock-command", ".pid-command"
_POLL_SECONDS = 0.05
_SHOWN_LINES = 20
_MEMORY = ("OutOfMemoryError", "out of memory", "MemoryError")


def run_command(
    config: RunConfig,
    folder: Path,
    *,
    grace: float = TRIAL_GRACE,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_loss: Callable[[int, float], None] = lambda step, loss: None,
) -> TrainResult:
    """Run the command of `config` to its end, to its divergence, or until it is told to stop.

    stdout.txt, stderr.txt and metrics.jsonl go into `folder`, where the command may write too. Whatever it has started
    is gone when this returns, and within `grace` seconds when this process is killed.

    Args:
        grace: seconds between SIGTERM and SIGKILL.
        resume: what stands in `folder` is kept, and the command is told so ({resume}, MUTRANSFER_RESUME).
        on_loss: called with the step and every loss that is read.

    Raises:
        UsageError: there is no such program; this is not a POSIX system; or it ended well and wrote no loss where
            `loss_from` searches, which is a mistake in the config and not a crash.
        RunFailed: it ended with another exit code than 0, or took longer than `model.timeout`.
    """
    section = cast(CommandSection, config.model)
    began = time.perf_counter()
    require_program(config, folder)
    folder = make_folder(folder.resolve())
    values = values_of(config, folder, resume=resume)
    command = [placeholders.fill(argument, values) for argument in section.command]
    metrics = MetricsFile(folder / "metrics.jsonl")
    reading = Reading(config.training.divergence_factor, section.loss_from.takes)
    sources = {"output": (STDOUT, STDERR), "stdout": (STDOUT,), "stderr": (STDERR,)}
    tails = [Tail(folder / name) for name in sources.get(section.loss_from.where, (section.loss_from.where,))]

    def read(*, ended: bool = False) -> None:
        for tail in tails:
            for line in tail.lines(ended=ended):
                for loss, step in find(line, section.loss_from):
                    if not reading.diverged:
                        reading.add(loss, step)
                        on_loss(reading.step or 0, loss)
        for record in reading.records:
            metrics.add(record)
        reading.records.clear()
        metrics.flush()

    ending: str = ""
    with _alone(folder) as lock:
        # metrics.jsonl is written again from the remaining output: with resume, from all that the command ever wrote.
        for name in {"metrics.jsonl"} if resume else {"metrics.jsonl", STDOUT, STDERR, section.loss_from.where}:
            (folder / name).unlink(missing_ok=True)
        process = _Supervised(command, _environment(section, values), folder, grace, lock)
    with process:
        while process.running and not ending:
            time.sleep(_POLL_SECONDS)
            read()
            if reading.diverged:
                ending = "diverged"
            elif should_stop():
                ending = "interrupted"
            elif section.timeout is not None and time.perf_counter() - began > section.timeout:
                ending = "late"
        code = process.stop() if ending else process.code
    read(ended=True)

    if reading.diverged:
        ending = "diverged"
    elif not ending:
        ending = _judge(section, folder, code, reading)
    elif ending == "late":
        raise RunFailed(f"the command took longer than model.timeout, {section.timeout:g} s", last_lines(folder))
    steps = reading.step if reading.step is not None else (config.training.steps if ending == "completed" else 0)
    loss = reading.value if ending == "completed" else None
    return TrainResult(cast(Outcome, ending), steps=steps, validation_loss=loss, seconds=time.perf_counter() - began)


def _judge(section: CommandSection, folder: Path, code: int, reading: Reading) -> Outcome:
    """The outcome of a command that ended by itself."""
    lines, how = last_lines(folder), section.loss_from
    if code:
        if any(word in lines for word in _MEMORY):
            return "out_of_memory"
        killed = f" (killed by signal {code - 128})" if code > 128 else ""
        last = lines.strip().rpartition("\n")[2]
        raise RunFailed(f"the command ended with exit code {code}{killed}: {last}", lines)
    if reading.value is None:
        looked = f"regex {how.regex!r}" if how.regex else f"field {how.field or 'val_loss'!r} of a JSON line"
        raise UsageError(
            f"{folder}: the command ended well, but no loss was found: model.loss_from looks for {looked} in "
            f"{how.where}. Fix it, and give the config another name. The last lines of the command were:\n{lines}"
        )
    return "completed"


def last_lines(folder: Path) -> str:
    """The last lines of the command: of stderr, or of stdout if stderr is empty."""
    for name in (STDERR, STDOUT):
        path = folder / name
        if path.exists():
            with open_file(path, "rb") as file:
                file.seek(max(0, file.seek(0, 2) - 20_000))
                lines = file.read().decode(errors="replace").splitlines()
            if any(line.strip() for line in lines):
                return "\n".join(lines[-_SHOWN_LINES:])
    return "(nothing)"


def require_program(config: RunConfig, folder: Path) -> None:
    """Raises `UsageError` if there is no such program, or this is not a POSIX system."""
    section = cast(CommandSection, config.model)
    program = placeholders.fill(section.command[0], values_of(config, folder.resolve()))
    if os.name != "posix":
        raise UsageError("model kind command needs process groups, and this system has none")
    if shutil.which(program) is None:
        raise UsageError(f"model.command: no such program: {program}; {{python}} is the Python that runs mutransfer")


def values_of(config: RunConfig, folder: Path, *, resume: bool = False) -> dict[str, str]:
    """`{placeholder: its text}` for one run in `folder`; what is not set is left out."""
    model, hparams = cast(CommandSection, config.model), config.hparams.filled()
    found: dict[str, Any] = {name: getattr(hparams, name) for name in placeholders.HPARAMS}
    found |= {"width": model.width, "base_width": model.base_width, "depth": model.depth}
    found["width_multiplier"] = model.width / model.base_width
    found |= {name: getattr(config.training, name) for name in placeholders.TRAINING}
    found |= {
        "name": config.name,
        "parametrization": config.parametrization,
        "trial_folder": str(folder.resolve()),
        "resume": resume,
        "python": sys.executable,
    }
    return {name: placeholders.text_of(value) for name, value in found.items() if value is not None}


def _environment(section: CommandSection, values: dict[str, str]) -> dict[str, str]:
    """The worker's environment (CUDA_VISIBLE_DEVICES is its device), all settings, and the config's own variables."""
    own = {placeholders.ENVIRONMENT_PREFIX + name.upper(): value for name, value in values.items()}
    return {**os.environ, **own} | {name: placeholders.fill(text, values) for name, text in section.environment.items()}


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Wait until an earlier command of this folder, whose worker was killed, has ended; the lock's file descriptor."""
    import fcntl

    with disk_errors(folder), open_file(folder / _LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


class _Supervised:
    """A command under `training.supervisor`."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path, grace: float, lock: int) -> None:
        script, self._pid = Path(__file__).with_name("supervisor.py"), folder / _PID
        arguments = [sys.executable, "-I", "-S", str(script), str(grace), str(self._pid), *command]
        with disk_errors(folder), open_file(folder / STDOUT, "ab") as out, open_file(folder / STDERR, "ab") as err:
            self._process = subprocess.Popen(  # noqa: S603 - an argument list, no shell
                arguments,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
                pass_fds=(lock,),  # locked until the supervisor is gone, whatever becomes of this process
            )

    def __enter__(self) -> _Supervised:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def code(self) -> int:
        code = self._process.wait()
        if code < 0:  # somebody killed the supervisor, which can then not end the command
            with contextlib.suppress(OSError, ValueError):
                os.killpg(int(self._pid.read_text()), signal.SIGKILL)
        return code if code >= 0 else 128 - code

    def stop(self) -> int:
        """End the command and all that it has started; the exit code."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        return self.code
