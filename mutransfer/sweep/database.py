"""A connection to the database of a study: set up for each kind, patient with a server, its errors in one line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, QueuePool, create_engine, event, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, ProgrammingError, SQLAlchemyError

from mutransfer.errors import Interrupted, UsageError
from mutransfer.executors.base import Stop
from mutransfer.sweep.place import Place
from mutransfer.sweep.tables import REVISIONS, read_revision

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds for which a running sweep waits for a database server that it has lost."""
_BUSY_SECONDS = 20
_LONGEST_PAUSE = 10.0
_POLL_SECONDS = 0.2
# Notice a dead connection in seconds, not after the operating system's two hours.
_LIBPQ = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
          "tcp_user_timeout": 20_000}  # fmt: skip
_DRIVERS = {"postgresql": "mutransfer[postgres]"}


class Database:
    """Reads and writes in transactions; every error is a UsageError that names the place and holds no password."""

    def __init__(self, place: Place, *, writes: bool, should_stop: Stop) -> None:
        """Raises UsageError where it is missing, damaged or unreachable, or its driver is not installed."""
        self._place, self._should_stop = place, should_stop
        self._writes_ahead = False
        file = place.sqlite_file
        if file is None:
            self._engine = _engine(place, place.url, writes=writes)
            return
        if not file.is_file():
            raise UsageError(f"{place}: no such study")
        if not os.access(file, os.R_OK):
            raise UsageError(f"{place}: study cannot be read")
        if writes and not os.access(file, os.W_OK):
            raise UsageError(f"{place}: study cannot be written: its file is read-only")
        self._engine = _engine(place, place.url if writes else _reading_url(file), writes=writes)
        try:
            self._require_sound()
        except BaseException:
            self._engine.dispose()
            raise

    def read(self, work: Callable[[Connection], T], *, patient: bool = False) -> T:
        """What `work` finds; raises as `write` does, or UsageError where none of Optuna's tables is there."""

        def attempt() -> T:
            with self._engine.connect() as connection:
                return work(connection)

        return self._tried("read", attempt, patient)

    def write(self, work: Callable[[Connection], Any], *, patient: bool = True) -> None:
        """Do `work` in one transaction: all of it or nothing.

        A server that cannot be reached is tried again for `PATIENCE` seconds if `patient`. When a connection dies in
        the moment of a commit, nobody knows whether it was done: `work` has to find that out when it is called again.
        Raises UsageError where the disk or the server refuses, and Interrupted when stopped while waiting.
        """

        def attempt() -> None:
            with self._engine.begin() as connection:
                work(connection)

        self._write_ahead()
        self._tried("written", attempt, patient)

    def _tried(self, done: str, attempt: Callable[[], T], patient: bool) -> T:
        began, pause = time.monotonic(), 0.5
        while True:
            try:
                return attempt()
            except SQLAlchemyError as error:
                if isinstance(error, ProgrammingError) or _says(error, "no such"):  # table, or column
                    raise self.damaged(_reason(self._place, error)) from error
                if not (patient and self._is_away(error)):
                    raise cannot_be(done, self._place, error) from error
                if time.monotonic() - began > PATIENCE:
                    reason = _reason(self._place, error)
                    raise UsageError(
                        f"{self._place}: the database was away for {PATIENCE:.0f} s ({reason}); the same "
                        "command continues"
                    ) from error
            self._rest(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def close(self) -> None:
        """Leave one file behind, which can be copied and read anywhere, and no connection."""
        if self._writes_ahead:
            self._pragma("journal_mode=DELETE")
        self._engine.dispose()

    def _write_ahead(self) -> None:
        """Have SQLite flush at checkpoints only: a kill loses nothing, a power cut at most the last trials. It happens
        at the first write, so that a refused coordinator leaves the file unchanged."""
        if self._engine.dialect.name == "sqlite" and not self._writes_ahead:
            self._writes_ahead = True
            self._pragma("journal_mode=WAL")

    def _pragma(self, setting: str) -> None:
        # Another process is reading, or the disk is full or does not support this journal; the present one will do.
        with suppress(SQLAlchemyError), self._engine.connect() as connection:
            connection.execute(text(f"PRAGMA {setting}"))

    def damaged(self, reason: object) -> UsageError:
        """The error for content that is not a study of ours."""
        first_line = str(reason).splitlines()[0] if str(reason) else type(reason).__name__
        return UsageError(
            f"{self._place}: study file is damaged ({first_line}); restore it from a backup, or move its folder away "
            "to start over"
        )

    def _require_sound(self) -> None:
        """Refuse a damaged SQLite file before anything is written to it."""
        try:
            with self._engine.connect() as connection:
                verdict = connection.execute(text("PRAGMA quick_check(1)")).scalar()
        except SQLAlchemyError as error:
            if _says(error, "locked"):
                raise cannot_be("read", self._place, error) from error
            raise self.damaged(getattr(error, "orig", error)) from error
        if verdict != "ok":
            raise self.damaged(verdict)

    def _is_away(self, error: SQLAlchemyError) -> bool:
        """Whether a server may be back if one waits; SQLite has no server."""
        if self._engine.dialect.name == "sqlite" or not isinstance(error, DBAPIError):
            return False
        return error.connection_invalidated or type(error.orig).__name__ in ("OperationalError", "InterfaceError")

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._should_stop():
                raise Interrupted(f"{self._place}: stopped while the database was away; the same command continues")
            time.sleep(_POLL_SECONDS)


def require_revision(place: Place, found: str | None) -> None:
    """Refuse a revision of Optuna's tables that `tables` was not written for."""
    if found not in REVISIONS:
        raise UsageError(
            f"{place}: revision {found} of Optuna's tables cannot be used, only {', '.join(REVISIONS)}; upgrade "
            "mutransfer, or use Optuna 4.5 to 5.0 and a database that it made or upgraded (optuna storage upgrade)"
        )


def optuna_storage(place: Place) -> RDBStorage:
    """Optuna's own connection, which makes its tables where there are none.

    Where these, or the tables there are, have another revision, nothing is written but UsageError raised: Optuna itself
    would add its tables before it looked at the revision.
    """
    from optuna import logging
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage

    logging.set_verbosity(logging.WARNING)
    engine = _engine(place, place.url, writes=True)
    # Optuna fills in braces.
    url = place.url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    try:
        in_memory = RDBStorage("sqlite://")
        try:
            made = str(in_memory.get_head_version())  # of the tables that the installed Optuna makes
        finally:
            in_memory.engine.dispose()
        require_revision(place, made)
        with engine.connect() as connection:
            require_revision(place, read_revision(connection) or made)
        return RDBStorage(url)
    except (StorageInternalError, SQLAlchemyError) as error:
        raise cannot_be("opened", place, error.__cause__ or error) from error
    except RuntimeError as error:  # revisions that can both be used, but not this one by this Optuna
        raise UsageError(f"{place}: {error}") from error
    finally:
        engine.dispose()


def cannot_be(done: str, place: Place, error: BaseException) -> UsageError:
    """The error when the disk or the server refuses."""
    end = "; the same command continues" if done == "written" else ""
    return UsageError(f"{place}: study cannot be {done} ({_reason(place, error)}){end}")


def _reason(place: Place, error: BaseException) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    for secret in place.secrets:
        reason = reason.replace(secret, "***")
    return reason


def _reading_url(file: Path) -> URL:
    """Readers may write where they can, since SQLite must finish what a kill left half done before it can read."""
    left = any(file.with_name(file.name + end).exists() for end in ("-wal", "-journal"))
    mode = {"mode": "rw"} if os.access(file.parent, os.W_OK) and os.access(file, os.W_OK) else {"mode": "ro"}
    if mode == {"mode": "ro"} and not left:
        mode = {"immutable": "1"}  # else SQLite wants to make files beside it
    return URL.create("sqlite", database=f"file:{quote(str(file.resolve()))}", query={**mode, "uri": "true"})


def _engine(place: Place, url: URL, *, writes: bool) -> Engine:
    backend = url.get_backend_name()
    arguments: dict[str, Any] = {}
    if backend == "sqlite":
        arguments = {"timeout": _BUSY_SECONDS}
    elif backend == "postgresql" and url.get_driver_name() in ("psycopg", "psycopg2"):
        arguments = {name: value for name, value in _LIBPQ.items() if name not in url.query}
    try:
        engine = create_engine(url, connect_args=arguments, poolclass=QueuePool if writes else NullPool)
    except (NoSuchModuleError, ArgumentError) as error:
        raise UsageError(f"search.storage: {place.storage} is not a storage URL ({error})") from None
    except ImportError as error:
        wanted = _DRIVERS.get(backend, error.name or "its driver")
        raise UsageError(
            f"search.storage: {place.storage} needs a package that is not installed ({error.name}): "
            f"pip install '{wanted}'"
        ) from None
    if backend == "sqlite" and writes:
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=NORMAL"))
    return engine


def _says(error: SQLAlchemyError, word: str) -> bool:
    return word in str(getattr(error, "orig", error))
