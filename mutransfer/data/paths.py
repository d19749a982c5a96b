"""Finds the files of a data set by paths and globs."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from mutransfer.data.dataset import require_file
from mutransfer.errors import DataError
from mutransfer.files import at_home


def matching_files(patterns: Sequence[str], field: str) -> dict[str, Path]:
    """Files that match paths or globs. Keys are paths relative to the deepest folder that contains all of them.

    Raises:
        DataError: a pattern matches no file, or a file cannot be read. The message names `field`.
    """
    paths: set[Path] = set()
    for pattern in patterns:
        expanded = str(at_home(pattern))
        found = [expanded] if Path(expanded).exists() else sorted(glob.glob(expanded, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        matches = [name for name in found if len(found) == 1 or Path(name).is_file()]
        if not matches:
            raise DataError(f"{field}: {pattern}: matches no file")
        paths.update(require_file(name).resolve() for name in matches)
    # Relative paths keep cache keys the same from any working folder, and after the files have moved.
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return {path.relative_to(common).as_posix(): path for path in paths}
