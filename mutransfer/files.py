"""Files that are complete or absent, folders that can be written, and lock files."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from mutransfer.errors import MutransferError, UsageError
from mutransfer.messages import first_problem
from mutransfer.shown import masked_data

T = TypeVar("T")

MOST_BYTES = 50_000_000
"""Size of the largest file of ours that is read as a whole."""
MOST_OF_DATA = 10**12
"""As `MOST_BYTES`, for data."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` (no permission, full disk, missing folder) into a `UsageError` that names the path, and also
    the errors of libraries in Rust, which have only its number in their text."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{error.filename or path}: cannot be written: {error.strerror or error}") from error
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None or isinstance(error, MutransferError):
            raise
        raise UsageError(f"{path}: cannot be written: {os.strerror(int(number[1]))}") from error


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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, for what is written inside; then it is flushed to disk and renamed.

    Readers see the old file or the new one. Where anything fails, the old one stays and the temporary one goes.

    Raises:
        UsageError: the file cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            yield temporary
            os.fsync(handle)
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)


def write_atomic(path: Path, content: str | bytes | Callable[[IO[bytes]], Any]) -> None:
    """Write a file as `replacing` does.

    Args:
        content: text, bytes, or a function that writes to the open binary file.

    Raises:
        UsageError: the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        if not callable(content):
            file.write(content.encode() if isinstance(content, str) else content)
            return
        disk = _Disk(file)
        try:
            content(cast(IO[bytes], disk))
        except Exception as error:
            raise disk.refusal or error from error


class _Disk:
    """A file that remembers why it could not be written, for libraries that raise an error of their own instead."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.refusal: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.refusal = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def at_home(path: str) -> Path:
    """The path with `~` expanded; that of an unknown user stays, where `Path.expanduser` raises."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def open_file(path: Path, mode: str, **how: Any) -> IO[Any]:
    """`open`, for files only: a folder, a pipe or a device raises `OSError`, and is not waited for."""
    return open(path, mode, opener=_open_at_once, **how)


def _open_at_once(path: str, flags: int) -> int:
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    kind = os.fstat(handle).st_mode
    if stat.S_ISREG(kind):
        return handle
    os.close(handle)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", path)
    raise OSError(errno.EINVAL, "is a pipe or a device, not a file", path)


def read_bytes(path: Path, *, most: int = MOST_BYTES, error: type[UsageError] = UsageError) -> bytes:
    """The content of a file.

    Raises:
        error: it is missing, not a file, longer than `most` bytes, or cannot be read.
    """
    try:
        with open_file(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise error(f"{path}: has {size} bytes, but at most {most} are possible here")
            content: bytes = file.read()
            return content
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path}: no such file") from None
    except OSError as problem:
        said = problem.strerror or str(problem)
        raise error(f"{path}: {said if said.startswith('is a ') else f'cannot be read: {said}'}") from None
    except ValueError as problem:  # a character that no path can have
        raise error(f"{path}: cannot be read: {problem}") from None


def read_text(path: Path, *, most: int = MOST_BYTES, error: type[UsageError] = UsageError) -> str:
    """The text of a file in UTF-8; raises as `read_bytes` does, also where it is not UTF-8."""
    try:
        return read_bytes(path, most=most, error=error).decode()
    except UnicodeDecodeError:
        raise error(f"{path}: is not UTF-8 text") from None


def read_json(path: Path, form: type[T], *, advice: str, error: type[UsageError] = UsageError) -> T:
    """The content of a JSON file, in the form that pydantic makes of it.

    Args:
        advice: what to do with a damaged file, for the end of the message.

    Raises:
        error: it cannot be read, or has another form; the message names the field.
    """
    return parse_json(read_bytes(path, error=error), form, label=str(path), advice=advice, error=error)


def parse_json(text: str | bytes, form: type[T], *, label: str, advice: str, error: type[UsageError] = UsageError) -> T:
    """As `read_json`, for JSON that lies elsewhere; `label` says where."""
    try:
        return TypeAdapter(form).validate_json(text)
    except ValidationError as problem:
        raise error(f"{label}: is damaged ({first_problem(problem)}); {advice}") from None


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
