"""Commented configs that `mutransfer init` writes, one file per model kind."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from mutransfer.errors import UsageError
from mutransfer.files import write_atomic


def template(kind: str) -> str:
    """The text of the template for a model kind."""
    return resources.files(__name__).joinpath(f"{kind}.yaml").read_text(encoding="utf-8")


def write_template(kind: str, path: Path) -> None:
    """Write a template to a new file.

    Raises:
        UsageError: something stands there already, or the disk refuses.
    """
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path}: is there already; name another file")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: cannot be written: No such file or directory")
    write_atomic(path, template(kind))
