"""`mutransfer reverse`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mutransfer.cli import console as ui
from mutransfer.cli.options import AsJson, ConfigFile, Sets


def run(
    config: ConfigFile,
    width: Annotated[int, typer.Option(help="Width of the standard (sp) model whose troubles are looked for.", min=1)],
    sets: Sets = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write; CONFIG's name with -reverse-wWIDTH beside it when left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the config of a narrow model that is as unstable as an sp model of the given width (TP-V App. I)."""
    with ui.errors_reported(as_json):
        from mutransfer.config.load import load_config
        from mutransfer.parametrization.options import options_of
        from mutransfer.transfer.reverse import reverse_config, write_reverse

        parsed = load_config(config, sets or ())
        narrow = reverse_config(parsed, width, origin=str(config))
        path = out if out is not None else config.with_name(f"{config.stem}-reverse-w{width}.yaml")
        write_reverse(narrow, path)
        following = f"mutransfer train {shlex.quote(str(path))}"
        if as_json:
            ui.print_json({"config": str(path), "name": narrow.name, "width": narrow.model.width,
                           "base_width": narrow.model.base_width, "next": following})  # fmt: skip
            return
        for rule in options_of(parsed).notes:
            ui.note(f"left out, as sp has no optional rules: {rule}")
        ui.say(
            f"wrote {path}: width {narrow.model.width} trains as an sp model of width {width} would, with lr "
            f"{narrow.hparams.lr:g} and every other hparam the same"
        )
        ui.say(f"Next: {following}, beside the same model in sp at its own width:")
        again = [part for one in _last_of_each([*(sets or ()), "parametrization=sp"]) for part in ("--set", one)]
        ui.say("  " + shlex.join(["mutransfer", "train", str(config), *again]))


def _last_of_each(assignments: list[str]) -> list[str]:
    """Of assignments to the same field the last, which is the one that counts."""
    last: dict[str, str] = {}
    for one in assignments:
        field = one.partition("=")[0].strip()
        last.pop(field, None)  # so that it moves behind what was set in between
        last[field] = one
    return list(last.values())
