"""The command line: one file per verb; arguments in, a call, its result shown. Imports no torch."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

import typer

from mutransfer.cli.console import begin, errors_reported, explain
from mutransfer.errors import Interrupted, UsageError
from mutransfer.private import usage_error
from mutransfer.shown import clean

_VERBS = (
    "init", "prepare", "sweep", "transfer", "train", "audit", "coord-check", "transfer-check", "reverse", "export",
    "status",
)  # fmt: skip

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
    app.command(_verb)(importlib.import_module(f"mutransfer.cli.{_verb.replace('-', '_')}").run)


def _stopped(number: int, frame: FrameType | None) -> None:
    """A signal before a verb has work to save, or a second one from a user who cannot wait.

    It ends the process here: an exception could surface inside a C++ callback of torch's import, which aborts. The
    system releases locks, workers leave with their coordinator, and files are renamed into place only when whole.
    """
    message = "stopped at once; what had been saved stays"
    with contextlib.suppress(Exception):  # the signal may have come in the middle of a print
        if "--json" in sys.argv:
            explain(Interrupted.__name__, message, Interrupted.exit_code)
        sys.stderr.write(f"error: {message}\n")
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(Interrupted.exit_code)


def call(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code; nothing that a user or a file does is a traceback."""
    as_json = "--json" in arguments
    begin()
    try:
        with errors_reported(as_json):
            _require_text(arguments)
            code = app(arguments, prog_name="mutransfer", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.Exit as end:
        return end.exit_code
    except usage_error() as error:  # raised where arguments are parsed
        message = io.StringIO()
        error.show(message)
        sys.stderr.write(clean(message.getvalue()))
        if as_json:
            explain("UsageError", "the arguments cannot be parsed; stderr says why", 2)
        return 2
    except BrokenPipeError:
        return 0  # whoever reads through a pipe has seen enough
    except Exception:
        sys.stderr.write(clean(traceback.format_exc()))
        if as_json:
            explain("InternalError", "this is a bug; stderr has the traceback", 1)
        return 1


def _require_text(arguments: Sequence[str]) -> None:
    """Refuse paths that are bytes and not text: neither YAML nor JSON nor SQLite could name them."""
    try:
        here = os.getcwd()  # noqa: PTH109 - text, as the others
    except OSError:
        raise UsageError("the current folder is gone; change into another one") from None
    for text in (*arguments, os.environ.get("MUTRANSFER_RUNS", ""), here):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{text}: is not UTF-8 text; rename the file or the folder") from None


def main() -> None:
    """Entry point of the `mutransfer` script."""
    # Importing torch makes a million objects and no garbage: default thresholds collect for half a second.
    gc.set_threshold(100_000, 20, 20)
    for stream in (sys.stdout, sys.stderr):  # a CI runner's or Windows's code page may lack η, µ or an arrow
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stopped)  # until a verb has work that it can save
    code = 2
    try:
        code = call(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        code = code or 2
        with contextlib.suppress(OSError):
            sys.stderr.write(f"error: stdout or stderr: cannot be written: {error.strerror}\n")
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    # Every file is closed and every worker ended by now; taking torch apart would cost another half second.
    os._exit(code)
