"""`text`: files as bytes, the standard library's own sources as the default that needs no download."""

from __future__ import annotations

import glob
import hashlib
import os
import sysconfig
from pathlib import Path

import numpy as np

from mutransfer.config.data import TextSection
from mutransfer.data.dataset import TokenDataset, require_file
from mutransfer.errors import DataError

_STDLIB_SKIPS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "__pycache__"}


def load(section: TextSection) -> TokenDataset:
    """Read all files into one byte sequence; its tail is the validation part.

    Files are ordered by a hash of their path, so that the tail is a fair sample
    and not the end of the alphabet.
    """
    files = _stdlib_files() if section.source == "python-stdlib" else _matching_files(section.paths)
    label = section.source if section.source == "python-stdlib" else ", ".join(section.paths)
    ordered = sorted(files, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())
    try:
        content = b"\n".join(files[name].read_bytes() for name in ordered)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    return TokenDataset(
        np.frombuffer(content, dtype=np.uint8),
        seq_len=section.seq_len,
        vocab_size=section.spec.vocab_size,
        validation_fraction=section.validation_fraction,
        label=label,
    )


def _stdlib_files() -> dict[str, Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files: dict[str, Path] = {}
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _STDLIB_SKIPS]
        paths = [Path(folder, name) for name in names if name.endswith(".py")]
        files.update({path.relative_to(root).as_posix(): path for path in paths})
    if not files:
        raise DataError(f"{root}: this Python has no standard library sources; use data.paths instead")
    return files


def _matching_files(patterns: tuple[str, ...]) -> dict[str, Path]:
    paths: set[Path] = set()
    for pattern in patterns:
        expanded = str(Path(pattern).expanduser())
        found = [expanded] if Path(expanded).exists() else sorted(glob.glob(expanded, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        matches = [name for name in found if len(found) == 1 or Path(name).is_file()]
        if not matches:
            raise DataError(f"data.paths: {pattern}: matches no file")
        paths.update(require_file(name).resolve() for name in matches)
    # The same files are the same data from any working folder, and after their folder has moved.
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return {path.relative_to(common).as_posix(): path for path in paths}
