"""Files that are complete or absent, folders that can be written, and lock files."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from mutransfer.errors import UsageError
from mutransfer.shown import masked_data

MOST_BYTES = 50_000_000
"""Size of the largest file that is read as a whole."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` (no permission, full disk, missing folder) into a `UsageError` that names the path."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{error.filename or path}: cannot be written: {error.strerror or error}") from error


def require_place(path: Path) -> None:
    """Check, before long work begins, that its results can be written into this folder.

    Raises:
        UsageError: the path or one of its parents is a file, or the folder cannot be written to.
    """
    with disk_errors(path):  # `exists` raises if the name is too long
        there = next((one for one in (path, *path.parents) if one.exists()), path)
        if there.exists() and not there.is_dir():
            raise UsageError(f"{there}: is a file, but must be a folder")
        if there.exists() and not os.access(there, os.W_OK | os.X_OK):
            raise UsageError(
                f"{there}: this folder cannot be written to; name another folder or change its permissions"
            )


def make_folder(path: Path) -> Path:
    """Create a folder and its parents.

    Raises:
        UsageError: it cannot be created or written to.
    """
    require_place(path)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def sole_folder(path: Path, lock: Path, busy: Callable[[], str], *, begun: Collection[str]) -> Iterator[None]:
    """Make a folder and hold its lock. If the work inside raises a `UsageError` before it saved anything, the folder
    is restored to its earlier state.

    Nothing is removed from a folder that had content before, or that has files other than the lock and `begun`.

    Args:
        begun: names of files that have no value by themselves.

    Raises:
        UsageError: the folder cannot be created or written to, another process holds it, or the work raised it.
    """
    with disk_errors(path):
        made = [one for one in (path, *path.parents) if not one.exists()]
    make_folder(path)
    fresh = False
    with suppress(OSError):  # a folder that cannot be read is not fresh
        fresh = not any(path.iterdir())
    with sole_holder(lock, busy):
        try:
            yield
        except UsageError:
            with suppress(OSError):  # the first error is the one to report
                left = list(path.iterdir()) if fresh else []
                if all(one.name in (lock.name, *begun) for one in left):
                    for one in left:
                        one.unlink()
                    for folder in made:
                        folder.rmdir()
            raise


def write_atomic(path: Path, content: str | bytes | Callable[[IO[bytes]], Any]) -> None:
    """Write a temporary file beside `path`, flush it to disk and rename it. Readers see the old file or the new one.

    Args:
        content: text, bytes, or a function that writes to the open binary file.

    Raises:
        UsageError: the file cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def read_bytes(path: Path, *, most: int = MOST_BYTES, error: type[UsageError] = UsageError) -> bytes:
    """The content of a file. A pipe or a device in its place is not waited for.

    Raises:
        error: it is missing, not a file, longer than `most` bytes, or cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                what = "folder" if stat.S_ISDIR(found.st_mode) else "pipe or a device"
                raise error(f"{path}: is a {what}, not a file")
            if found.st_size > most:
                raise error(f"{path}: has {found.st_size} bytes, but at most {most} are possible here")
            with os.fdopen(handle, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(handle)
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path}: no such file") from None
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}") from None
    except ValueError as problem:  # a character that no path can have
        raise error(f"{path}: cannot be read: {problem}") from None


def read_text(path: Path, *, most: int = MOST_BYTES, error: type[UsageError] = UsageError) -> str:
    """The text of a file in UTF-8; raises as `read_bytes` does, also where it is not UTF-8."""
    try:
        return read_bytes(path, most=most, error=error).decode()
    except UnicodeDecodeError:
        raise error(f"{path}: is not UTF-8 text") from None


@contextmanager
def sole_holder(path: Path, busy: Callable[[], str]) -> Iterator[None]:
    """Hold a lock file. The operating system releases it when the process ends, even if it is killed.

    Args:
        busy: gives the message if another process holds the lock.

    Raises:
        UsageError: another process holds the lock, or the file cannot be written.
    """
    lock = FileLock(path, timeout=1)  # wait a second, because `is_held` takes the lock for a moment
    with disk_errors(path):
        try:
            lock.acquire()
        except Timeout:  # a subclass of OSError
            raise UsageError(busy()) from None
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds this lock now. Nobody can hold a lock on a read-only disk."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except OSError as error:
        return error.errno != errno.EROFS


def write_json(path: Path, data: Any) -> None:
    """Write JSON with `write_atomic`."""
    write_atomic(path, json.dumps(masked_data(data), indent=2) + "\n")
