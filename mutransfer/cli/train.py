"""`mutransfer train`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mutransfer.cli import console as ui
from mutransfer.cli.options import RUNS, AsJson, ConfigFile, Runs, Sets

if TYPE_CHECKING:
    from mutransfer.config.schema import RunConfig


def run(
    config: ConfigFile,
    sets: Sets = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run from its last checkpoint.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; a target's own folder, else RUNS/NAME/train, when left out."),
    ] = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Train one config, proxy or target, with its hparams as they stand."""
    with ui.errors_reported(as_json):
        from mutransfer.cli.progress import TrainProgress
        from mutransfer.config.load import load_config
        from mutransfer.errors import Interrupted, NothingUsable
        from mutransfer.executors.devices import single_device
        from mutransfer.files import read_text
        from mutransfer.parametrization.options import options_of
        from mutransfer.signals import launcher_gone, stop_on_signals
        from mutransfer.training.folder import TrainFolder
        from mutransfer.training.run import train

        parsed = load_config(config, sets or ())
        for rule in options_of(parsed).notes:
            ui.note(rule)
        if parsed.trainer.inspectable:  # torch comes before the handlers: until then a signal ends the command at once
            import mutransfer.training.fitting  # noqa: F401
        orphaned = launcher_gone()
        folder = TrainFolder(out if out is not None else _home(config, parsed, runs))
        with stop_on_signals() as stopping, TrainProgress() as progress:
            result = train(
                parsed,
                folder,
                device=single_device().torch_name,
                resume=resume,
                should_stop=lambda: stopping() or orphaned(),
                on_progress=lambda news: progress(news.step, news.steps, news.loss),
                on_note=ui.note,
            )
        placed = ["--out", str(out)] if out is not None else ["--runs", str(runs)] if runs != RUNS else []
        repeated = [part for one in sets or () for part in ("--set", one)]
        again = shlex.join(["mutransfer", "train", str(config), *repeated, *placed, "--resume"])
        if result.outcome == "interrupted":
            raise Interrupted(f"stopped after {result.steps} of {parsed.training.steps} steps; continue: {again}")
        if result.outcome == "diverged":
            raise NothingUsable(
                f"{folder.root}: training diverged at step {result.steps} of {parsed.training.steps}; see "
                f"{folder.metrics}"
            )
        if as_json:
            ui.print_json({"run": str(folder.root), **asdict(result)})
            return
        if not parsed.trainer.inspectable:  # its parameters and weights are not known here
            ui.say(f"{parsed.name}: {result.steps} steps in {ui.duration(result.seconds)}")
            ui.say(f"loss {ui.loss(result.validation_loss)}   Losses: {folder.metrics}   Output: {folder.root}")
            return
        ui.say(
            f"{parsed.name}: {result.parameters:,} parameters, {result.steps} steps in {ui.duration(result.seconds)}"
        )
        ui.say(f"validation loss {ui.loss(result.validation_loss)}, training loss {ui.loss(result.training_loss)}")
        for name, value in result.metrics.items():
            ui.say(f"{name} {value:.2f} on the {'test' if parsed.data.has_test else 'validation'} data")
        ui.say(f"Weights: {folder.weights}   Losses: {folder.metrics}")
        if folder.pretrained.exists():
            ui.say(f"For transformers: {folder.pretrained}")
        elif folder.not_pretrained.exists():
            ui.warn([f"no checkpoint for transformers: {read_text(folder.not_pretrained).strip()}"])


def _home(config: Path, parsed: RunConfig, runs: Path) -> Path:
    """A config that `mutransfer transfer` wrote stands in the folder of its own run."""
    if parsed.provenance is not None and config.name == "config.yaml":
        return config.parent
    return runs / parsed.name / "train"
