"""`mutransfer export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mutransfer.cli import console as ui
from mutransfer.cli.options import RUNS, AsJson, Runs, Sets


def run(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG_OR_TARGET", help="Run config, folder of a target, or a target's name in RUNS."),
    ],
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help="json, megatron, nanogpt-mup, or one from a plug-in.")
    ],
    out: Annotated[Path | None, typer.Option(help="File to write; stdout when left out.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write although the trainer builds another model; the notes say in what.")
    ] = False,
    sets: Sets = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Write a config in the format of another trainer, with notes on what that trainer does differently."""
    with ui.errors_reported(as_json):
        from mutransfer.config.load import load_config
        from mutransfer.transfer.export import export_config
        from mutransfer.transfer.export.files import find_config, write_export

        path = find_config(config, runs)
        made = export_config(load_config(path, sets or ()), form, force=force)
        if out is not None:
            write_export(made, out)
        for note in made.notes:
            ui.note(f"note: {note}")
        if as_json:
            ui.print_json({"config": str(path), "out": None if out is None else str(out), **made.as_dict()})
        elif out is None:
            sys.stdout.write(made.text)
        else:
            ui.say(f"wrote {out}")
