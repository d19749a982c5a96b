"""The command line: one file per verb; arguments in, a call, its result shown. Imports no torch."""

from __future__ import annotations

import importlib

import typer

_VERBS = ("init", "sweep", "transfer", "train", "audit", "status")

app = typer.Typer(
    name="mutransfer",
    help="Tune a narrow µP proxy, then train the wide target with identical hyperparameters (µTransfer).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        from mutransfer import __version__

        typer.echo(f"mutransfer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    del version


for _verb in _VERBS:
    app.command(_verb)(importlib.import_module(f"mutransfer.cli.{_verb}").run)


def main() -> None:
    """Entry point of the `mutransfer` script."""
    app()
