"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mutransfer.errors import UsageError

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="Run config, a YAML file.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field, e.g. training.steps=50. Repeatable."),
]
Runs = Annotated[Path, typer.Option("--runs", envvar="MUTRANSFER_RUNS", help="Folder of all runs.", show_default=True)]
ExecutorName = Annotated[
    str | None, typer.Option("--executor", metavar="NAME", help="Where trials run, instead of the config's executor.")
]
Workers = Annotated[
    int | None, typer.Option(help="Worker processes; one per GPU, or per group of CPU cores, when left out.", min=1)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else there.")]

RUNS = Path("runs")


def whole_numbers(sizes: str | None) -> tuple[int, ...] | None:
    """The numbers of `--sizes`; None where it is left out."""
    try:
        return None if sizes is None else tuple(map(int, sizes.split(",")))
    except ValueError:
        raise UsageError(
            f"--sizes {sizes}: write whole numbers with commas between them, for example 64,128,256"
        ) from None
