"""The messages of a running job: progress, and questions to its submitter. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing.connection import Connection
from typing import Any

PARENT_LOST = 70
# Beats are at least this far apart, and this many fit into the limit.
_BEAT_SECONDS = 1.0
_BEATS_PER_LIMIT = 8


class Line:
    """The line of one job; this base class discards messages."""

    def beat(self) -> None:
        """Call it after every step of work: it shows that the job is not hung. It is cheap."""

    def ask(self, question: Any) -> Any:
        """The answer of `Job.answer` to plain data; None where there is no listener."""
        del question


class InlineLine(Line):
    """The line of a job in the coordinator's own process."""

    def __init__(self, answer: Callable[[Any], Any] | None) -> None:
        self._answer = answer

    def ask(self, question: Any) -> Any:  # noqa: D102
        return None if self._answer is None else self._answer(question)


class PipeLine(Line):
    """The line of a job in a worker process: ("beat", None) and ("question", …) ahead of the job's result."""

    def __init__(self, connection: Connection[Any, Any], hang_after: float) -> None:
        self._connection = connection
        self._pause = min(_BEAT_SECONDS, hang_after / _BEATS_PER_LIMIT)
        self._due = 0.0 if hang_after else float("inf")

    def beat(self) -> None:  # noqa: D102
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._pause
            with _quiet_end():
                self._connection.send(("beat", None))

    def ask(self, question: Any) -> Any:  # noqa: D102
        with _quiet_end():
            self._connection.send(("question", question))
            return self._connection.recv()


@contextmanager
def _quiet_end() -> Iterator[None]:
    """A worker whose coordinator is gone ends silently."""
    try:
        yield
    except (EOFError, OSError):
        raise SystemExit(PARENT_LOST) from None


_current: ContextVar[Line] = ContextVar("line", default=Line())  # noqa: B039


def line() -> Line:
    """The line of the job that this process runs."""
    return _current.get()


@contextmanager
def connected(own: Line) -> Iterator[None]:
    """Within the context `line()` is this one."""
    token = _current.set(own)
    try:
        yield
    finally:
        _current.reset(token)
