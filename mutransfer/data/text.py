"""`text`: text files and a tokenizer. The default text is the source of Python's standard library: no download."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mutransfer.config.data import TextSection
from mutransfer.data.cache import files_key
from mutransfer.data.corpus import read_text, token_dataset
from mutransfer.data.dataset import TokenDataset
from mutransfer.data.paths import matching_files
from mutransfer.errors import DataError
from mutransfer.files import MOST_OF_DATA, read_bytes

_STDLIB_SKIPS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "__pycache__"}


def load(section: TextSection) -> TokenDataset:
    """Read all files into one sequence. Its tail is the validation part, unless `validation_paths` are given.

    Files are sorted by a hash of their path, so that the tail is a fair sample and not the end of the alphabet.
    """
    files, held_out = text_files(section)
    label = section.source if section.source == "python-stdlib" else ", ".join(section.paths)
    if section.tokenizer.kind == "bytes":  # read as they are, in any encoding
        content, other = _joined(files), _joined(held_out)
        ids = np.frombuffer(content + other, dtype=np.uint8)
        tail = len(other) if section.validation_paths else None
        return TokenDataset(ids, section, vocab_size=section.spec.vocab_size, label=label, held_out=tail)
    return token_dataset(
        section,
        lambda: _documents(files),
        (lambda: _documents(held_out)) if section.validation_paths else None,
        key=files_key(files) + (files_key(held_out) if held_out else ""),
        label=label,
    )


def text_files(section: TextSection) -> tuple[dict[str, Path], dict[str, Path]]:
    """The files of the training part, and of the validation part if it has its own.

    Raises `DataError` if no file matches, or a file cannot be read.
    """
    stdlib = section.source == "python-stdlib"
    files = _stdlib_files() if stdlib else matching_files(section.paths, "data.paths")
    held_out = matching_files(section.validation_paths, "data.validation_paths") if section.validation_paths else {}
    return _shuffled(files), _shuffled(held_out)


def _documents(files: dict[str, Path]) -> Iterator[str]:
    return (text for text in map(read_text, files.values()) if text)


def _joined(files: dict[str, Path]) -> bytes:
    return b"\n".join(read_bytes(path, most=MOST_OF_DATA, error=DataError) for path in files.values())


def _shuffled(files: dict[str, Path]) -> dict[str, Path]:
    return dict(sorted(files.items(), key=lambda item: hashlib.blake2b(item[0].encode(), digest_size=8).digest()))


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
