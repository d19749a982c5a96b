"""Arrays that cost time to make, kept on disk: whole or absent, made once by several processes, never unpickled.

An entry is a folder of `.npy` files and `entry.json` with their lengths and checksums. What does not match them is made
anew; where nothing can be written, the work is done without.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from filelock import FileLock
from numpy.typing import NDArray

from mutransfer.errors import DataError

Arrays = dict[str, NDArray[Any]]
_LOG = logging.getLogger(__name__)
_FORMAT = 1
_BLOCK = 1 << 22
# Larger files are told apart by name, size and time of change, and checked by a sample of blocks.
_READ_WHOLE = 1 << 30
_warned: set[str] = set()


def cache_folder() -> Path:
    """`$MUTRANSFER_CACHE`, or `mutransfer` in the platform's folder for caches."""
    named = os.environ.get("MUTRANSFER_CACHE")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("mutransfer", appauthor=False)


def cache_key(*parts: Any) -> str:
    """32 hex digits of anything that JSON can write."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def files_key(files: Mapping[str, Path]) -> str:
    """Key of files under the names given: of their content up to 1 GiB together, else of path, size and time of change.

    Raises:
        DataError: one cannot be read.
    """
    try:
        sizes = {name: path.stat() for name, path in files.items()}
        if sum(found.st_size for found in sizes.values()) <= _READ_WHOLE:
            return cache_key({name: checksum(path) for name, path in files.items()})
        return cache_key(
            {name: [str(files[name].resolve()), found.st_size, found.st_mtime_ns] for name, found in sizes.items()}
        )
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None


def checksum(path: Path) -> str:
    """32 hex digits of a file's length and content; beyond 1 GiB of blocks spread evenly over it.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    stride = _BLOCK if size <= _READ_WHOLE else max(_BLOCK, size // (_READ_WHOLE // _BLOCK))
    with path.open("rb") as file:
        for start in range(0, size, stride):
            file.seek(start)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def cached(what: str, key: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays of entry `key`, memory-mapped and read-only; made by `make` where there is no whole entry.

    Several processes that ask at once make it once. A folder that cannot be written costs a warning, and the arrays
    are then those that `make` gave.

    Args:
        what: kind of entry, a folder of the cache.
        key: everything the arrays depend on, see `cache_key`.
    """
    folder = cache_folder() / what / key
    found = _read(folder)
    if found is not None:
        return found
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        _warn(error)
        return make()
    try:
        found = _read(folder)
        if found is not None:
            return found
        made = make()
        try:
            _write(folder, made)
        except OSError as error:
            _warn(error)
            return made
        return _read(folder) or made
    finally:
        lock.release()


def _read(folder: Path) -> Arrays | None:
    """The arrays, or nothing if the entry is absent or not what its record says."""
    try:
        record = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
        if record["format"] != _FORMAT:
            return None
        arrays = {}
        for name, expected in record["arrays"].items():
            path = folder / f"{name}.npy"
            if checksum(path) != expected:
                _LOG.warning("%s: is damaged and made anew", path)
                return None
            arrays[name] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        return arrays
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(folder: Path, arrays: Arrays) -> None:
    """Write beside the folder, flush to disk, rename. The lock of this entry is held."""
    for left in folder.parent.glob(f".{folder.name}.*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        sums = {}
        for name, array in arrays.items():
            with (temporary / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            sums[name] = checksum(temporary / f"{name}.npy")
        with (temporary / "entry.json").open("w", encoding="utf-8") as record:
            json.dump({"format": _FORMAT, "arrays": sums}, record)
            record.flush()
            os.fsync(record.fileno())
        temporary.chmod(0o755)
        if folder.exists():  # damaged
            shutil.rmtree(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _warn(error: Exception) -> None:
    """Once for each cause in a process."""
    cause = getattr(error, "strerror", None) or str(error)
    if cause not in _warned:
        _warned.add(cause)
        _LOG.warning(
            "%s: cannot be used as a cache (%s), so data is prepared anew each time; MUTRANSFER_CACHE names another",
            cache_folder(), cause,
        )  # fmt: skip


def versions(modules: Iterable[str]) -> dict[str, str]:
    """Installed versions of packages, for keys."""
    from importlib.metadata import version

    return {module: version(module) for module in modules}
