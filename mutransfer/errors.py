"""Every error that a user can cause or must act on. Each class has its exit code (docs/exit-codes.md lists them)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from mutransfer.shown import plain


def nearest(name: str, names: Iterable[str], what: str = "the names are") -> str:
    """The hint after a mistyped name: `did you mean lr?`, or the first names there are after the words `what`."""
    known = [one for one in names if one]
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"{what} {', '.join(known[:30]) or 'none'}{' …' if len(known) > 30 else ''}"


class MutransferError(Exception):
    """Base of all errors raised on purpose. The message says what is wrong, where, and what to write instead."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


class UsageError(MutransferError):
    """A wrong argument, path, run name or state of the disk that the user can correct."""

    exit_code = 2


class ConfigError(UsageError):
    """A config that cannot be run. The message gives file, line and field."""


class DataError(UsageError):
    """Data that is missing, unreadable, too short or not what the config says it is."""


class PlanError(UsageError):
    """A model whose parameters cannot be given roles, or a plan that does not fit the model."""


class NothingUsable(MutransferError):
    """The work ran but gave nothing usable: training or every trial diverged, or a check failed."""

    exit_code = 3


class Interrupted(MutransferError):
    """A signal stopped the work and everything is saved. The message says how to continue."""

    exit_code = 4


class LaunchFailed(MutransferError):
    """`mutransfer transfer --launch` started the target run, and the run failed."""

    exit_code = 5
