"""What people and programs see: results on stdout, everything else on stderr, errors as one message and a code."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import typer

from mutransfer.errors import MutransferError, UsageError
from mutransfer.shown import clean, masked_data

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 200
_json_printed = False


def console(*, stderr: bool = False) -> Console:
    """A rich console; into a pipe it writes plain lines that are not folded at 80 columns."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    # Without emoji: they would take the place of a line's number in `run.yaml:100: …`.
    return Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False, width=width)


@contextmanager
def errors_reported(as_json: bool) -> Iterator[None]:
    """Turn a `MutransferError` into its message on stderr (and in the JSON) and its exit code.

    What the operating system has against a path, a full disk or a limit, wherever it says so first, is one too.
    """
    try:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            what = f"{error.filename}: cannot be used" if error.filename else "a file cannot be read or written"
            raise UsageError(f"{what}: {error.strerror or error}") from error
    except MutransferError as error:
        with suppress(OSError):  # stderr may be a file on the full disk
            if os.environ.get("MUTRANSFER_DEBUG"):
                sys.stderr.write(clean("".join(traceback.format_exception(error))))
            note(f"error: {error}", style="bold red")
            if as_json:  # last: whoever was to read it may be gone
                print_json(_failure(type(error).__name__, str(error), error.exit_code))
        raise typer.Exit(error.exit_code) from error


def print_json(data: Any) -> None:
    """The one JSON object of `--json`."""
    global _json_printed  # noqa: PLW0603 - stdout is global too
    _json_printed = True
    sys.stdout.write(json.dumps(masked_data(data), indent=2, allow_nan=False) + "\n")


def explain(kind: str, message: str, exit_code: int) -> None:
    """The JSON object of a call that failed, unless one has been printed."""
    if not _json_printed:
        print_json(_failure(kind, message, exit_code))


def _failure(kind: str, message: str, exit_code: int) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message}, "exit_code": exit_code}


def begin() -> None:
    """Forget that a JSON object was printed: another command line begins in this process."""
    global _json_printed  # noqa: PLW0603
    _json_printed = False


def say(text: str = "") -> None:
    """A line of the result, on stdout."""
    console().print(clean(text), markup=False)


def note(text: str, *, style: str = "") -> None:
    """A line about the result or on the way to it, on stderr."""
    console(stderr=True).print(clean(text), style=style, markup=False)


def warn(texts: Sequence[str]) -> None:
    """Warnings, a line each, on stderr."""
    for text in texts:
        note(f"warning: {text}", style="yellow")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, its first column to the left and the others to the right.

    In a narrow terminal long lines wrap; cut cells would be lost. (rich.table takes a millisecond per row.)
    """
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return "   ".join([cells[0].ljust(widths[0]), *padded[1:]]).rstrip()

    out = console()
    out.print(clean(title), style="italic", markup=False)
    out.print(clean(line(columns)), style="bold", markup=False)
    sys.stdout.write(clean("\n".join(["─" * (sum(widths) + 3 * (len(widths) - 1)), *map(line, rows), "\n"])))


def number(value: Any) -> str:
    """A value for people: four significant digits, a dash for none."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def loss(value: float | None) -> str:
    """A loss with the digits that matter."""
    return "–" if value is None else f"{value:.4f}"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def quantity(value: float, unit: str, *, base: float = 1000.0) -> str:
    """`1.6 G` and the like, with the unit behind."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if abs(value) < base or prefix == "E":
            digits = f"{value:.0f}" if not prefix else f"{value:.3g}"
            return f"{digits} {prefix}{unit}".rstrip()
        value /= base
    raise AssertionError
