"""Files that are whole or absent, and folders that can be written or say why not."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from mutransfer.errors import UsageError


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses (permission, full disk, no folder) into one clear message."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{error.filename or path}: cannot be written: {error.strerror or error}") from error


def require_place(path: Path) -> None:
    """Refuse a path that cannot become a folder to write in, before the work whose result goes there.

    Raises:
        UsageError: something else stands there, or in the place of a folder above it, or nothing can be written there.
    """
    with disk_errors(path):  # a name too long cannot even be looked for
        there = next((one for one in (path, *path.parents) if one.exists()), None)
        if there is not None and not there.is_dir():
            raise UsageError(f"{there}: is a file, but has to be a folder")
        if there is not None and not os.access(there, os.W_OK | os.X_OK):
            raise UsageError(f"{there}: folder cannot be written to")


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
    """`make_folder` and `sole_holder` of a lock in it. Where the work is then refused before it begins, the folder is
    restored to its previous state.

    Args:
        begun: names of files that are worth nothing by themselves.

    Raises:
        UsageError: it cannot be created or written to, another process holds it, or the work was refused. Nothing is
            removed of a folder in which there was something before, or is something else now, or which another holds.
    """
    with disk_errors(path):
        made = [one for one in (path, *path.parents) if not one.exists()]
    fresh = bool(made) or _is_empty(path)
    make_folder(path)
    with sole_holder(lock, busy):
        try:
            yield
        except UsageError:
            with suppress(OSError):  # what was refused is what matters
                left = list(path.iterdir()) if fresh else []
                if all(one.name in (lock.name, *begun) for one in left):
                    for one in left:
                        one.unlink()
                    for folder in made:
                        folder.rmdir()
            raise


def _is_empty(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except OSError:  # a file, or one that cannot be looked into
        return False


def write_atomic(path: Path, content: str | bytes | Callable[[IO[bytes]], Any]) -> None:
    """Write to a temporary name beside `path`, flush to disk, rename: readers see the old file or the new.

    Args:
        content: text, bytes, or a function that writes to the open binary file.

    Raises:
        UsageError: the disk refuses.
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


@contextmanager
def sole_holder(path: Path, busy: Callable[[], str]) -> Iterator[None]:
    """Hold a lock file; the operating system drops it with the process, however that ends.

    Args:
        busy: makes the message when another process holds it.

    Raises:
        UsageError: another process holds it, or it cannot be written.
    """
    # A moment's patience, for whoever only looks whether the lock is held.
    lock = FileLock(path, timeout=1)
    try:
        lock.acquire()
    except Timeout:  # which is an OSError too
        raise UsageError(busy()) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file now."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except OSError as error:
        return error.errno != errno.EROFS  # nobody holds a lock on a read-only disk


def write_json(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all."""
    write_atomic(path, json.dumps(data, indent=2) + "\n")
