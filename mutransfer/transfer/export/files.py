"""Which config is meant, and where its export goes."""

from __future__ import annotations

from pathlib import Path

from mutransfer.errors import UsageError
from mutransfer.files import read_bytes, write_atomic
from mutransfer.transfer.export.base import Export


def find_config(given: Path, runs: Path) -> Path:
    """The config file of a path to it, of a run's folder, or of a target's name.

    Raises:
        UsageError: there is none, or several targets have that name.
    """
    if given.is_file():
        return given
    if (given / "config.yaml").is_file():
        return given / "config.yaml"
    name = str(given)
    found = [
        path
        for path in sorted(runs.glob("*/targets/*/config.yaml"))
        if name in (path.parent.name, f"{path.parents[2].name}-{path.parent.name}")
    ]
    if not found:
        raise UsageError(f"{given}: is not a config file, a folder with a config.yaml, or a target in {runs}")
    if len(found) > 1:
        raise UsageError(f"{given}: names several targets; give one of\n  " + "\n  ".join(str(one) for one in found))
    return found[0]


def write_export(export: Export, path: Path) -> None:
    """Save the file; one that stands there already is kept when it is the same.

    Raises:
        UsageError: something else stands there, or the disk refuses.
    """
    if path.exists():
        if path.is_file() and read_bytes(path) == export.text.encode():
            return
        raise UsageError(f"{path}: is there already and differs; choose another file with --out")
    write_atomic(path, export.text)
