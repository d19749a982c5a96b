"""Arrays that take long to make, kept on disk.

An entry is a folder of `.npy` files and `entry.json` with their checksums. It is complete or absent, and nothing is
unpickled. A damaged entry is made again. If the cache cannot be written, the arrays are made each time.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import platformdirs
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict

from mutransfer.data.dataset import reading
from mutransfer.errors import UsageError
from mutransfer.files import at_home, open_file, read_json, write_atomic, write_json

Arrays = dict[str, NDArray[Any]]
_LOG = logging.getLogger(__name__)
_FORMAT = 1
_BLOCK = 1 << 22
# Beyond this size a key uses path, size and modification time, and a checksum reads a sample of blocks.
_READ_WHOLE = 1 << 30
_warned: set[str] = set()


class _Entry(TypedDict):
    format: int
    arrays: dict[Annotated[str, Field(pattern=r"^\w+$")], str]
    """`{name: checksum}`."""


def cache_folder() -> Path:
    """`$MUTRANSFER_CACHE`, or `mutransfer` in the cache folder of the platform."""
    named = os.environ.get("MUTRANSFER_CACHE")
    return at_home(named) if named else platformdirs.user_cache_path("mutransfer", appauthor=False)


def cache_key(*parts: Any) -> str:
    """32 hex digits from values that JSON can write."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def files_key(files: Mapping[str, Path]) -> str:
    """Key of named files: from their content up to 1 GiB in total, otherwise from path, size and modification time.

    Raises `DataError` if a file cannot be read.
    """
    with reading():
        sizes = {name: path.stat() for name, path in files.items()}
        if sum(found.st_size for found in sizes.values()) <= _READ_WHOLE:
            return cache_key({name: checksum(path) for name, path in files.items()})
        return cache_key(
            {name: [str(files[name].resolve()), found.st_size, found.st_mtime_ns] for name, found in sizes.items()}
        )


def checksum(path: Path) -> str:
    """32 hex digits from a file's length and content. Beyond 1 GiB it reads blocks spread evenly over the file.

    Raises `OSError` if the file cannot be read.
    """
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    stride = _BLOCK if size <= _READ_WHOLE else max(_BLOCK, size // (_READ_WHOLE // _BLOCK))
    with open_file(path, "rb") as file:
        for start in range(0, size, stride):
            file.seek(start)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def cached(what: str, key: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays of entry `key`, memory-mapped and read-only. If there is no valid entry, `make` makes them.

    Several processes that ask at once make the entry once. If the cache cannot be written, this logs a warning and
    returns the arrays that `make` returned.

    Args:
        what: kind of entry, a subfolder of the cache.
        key: `cache_key` of everything that the arrays depend on.
    """
    folder = cache_folder() / what / key
    found = _read(folder)
    if found is not None:
        return found
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
    except (OSError, NotImplementedError) as error:
        _warn(error)
        return make()
    with held:
        found = _read(folder)
        if found is not None:
            return found
        made = make()
        try:
            _write(folder, made)
        except (OSError, UsageError) as error:
            _warn(error)
            return made
        return _read(folder) or made


def _read(folder: Path) -> Arrays | None:
    """The arrays, or None if the entry is absent or damaged."""
    try:
        record = read_json(folder / "entry.json", _Entry, advice="")
        if record["format"] != _FORMAT:
            return None
        arrays = {}
        for name, expected in record["arrays"].items():
            path = folder / f"{name}.npy"
            if checksum(path) != expected:
                _LOG.warning("%s: is damaged and is made again", path)
                return None
            arrays[name] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        return arrays
    except (OSError, ValueError, UsageError):
        return None


def _write(folder: Path, arrays: Arrays) -> None:
    """Write a temporary folder, flush it to disk and rename it. The caller holds the lock of this entry."""
    for left in folder.parent.glob(f".{folder.name}.*"):  # a killed process left them
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        sums = {}
        for name, array in arrays.items():
            write_atomic(temporary / f"{name}.npy", functools.partial(_save, array))
            sums[name] = checksum(temporary / f"{name}.npy")
        write_json(temporary / "entry.json", {"format": _FORMAT, "arrays": sums})
        temporary.chmod(0o755)
        if folder.exists():  # it is damaged
            shutil.rmtree(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _save(array: NDArray[Any], file: IO[bytes]) -> None:
    np.save(file, array, allow_pickle=False)


def _warn(error: Exception) -> None:
    """Warn once per process for each cause."""
    cause = getattr(error.__cause__ or error, "strerror", None) or str(error)
    if cause not in _warned:
        _warned.add(cause)
        _LOG.warning(
            "%s: this cache folder cannot be used (%s), so data is prepared each time; set MUTRANSFER_CACHE to another",
            cache_folder(), cause,
        )  # fmt: skip


def versions(modules: Iterable[str]) -> dict[str, str]:
    """Installed versions of packages, as part of a cache key."""
    from importlib.metadata import version

    return {module: version(module) for module in modules}
