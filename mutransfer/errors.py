"""Every error that a user can cause or must act on; each class knows its exit code (listed in docs/exit-codes.md)."""

from __future__ import annotations


class MutransferError(Exception):
    """Base of all errors raised on purpose: the message says what was wrong, where, and what would be right."""

    exit_code = 1


class UsageError(MutransferError):
    """A wrong argument, path, run name or state of the disk that the user can put right."""

    exit_code = 2


class ConfigError(UsageError):
    """A config that cannot be run; the message carries file, line and field."""


class DataError(UsageError):
    """Data that is missing, unreadable, too short or not what the config says it is."""


class PlanError(UsageError):
    """A model whose parameters cannot be given roles, or a plan that does not fit the model."""


class NothingUsable(MutransferError):
    """The work ran, and nothing usable came out: every trial diverged, training did, or a check failed."""

    exit_code = 3


class Interrupted(MutransferError):
    """Stopped by a signal with everything saved; the message says how to go on."""

    exit_code = 4


class LaunchFailed(MutransferError):
    """The target run that was launched failed."""

    exit_code = 5
