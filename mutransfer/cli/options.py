"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="Run config, a YAML file.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field, e.g. training.steps=50. Repeatable."),
]
Runs = Annotated[Path, typer.Option("--runs", envvar="MUTRANSFER_RUNS", help="Folder of all runs.", show_default=True)]
ExecutorName = Annotated[
    str | None, typer.Option("--executor", metavar="NAME", help="Where trials run, instead of the config's executor.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else there.")]

RUNS = Path("runs")
