"""Imports point one way, and what must answer at once imports no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "mutransfer"
# A room may import from rooms before it, and from itself.
ORDER = [
    "errors", "registry", "signals", "files", "hub", "optimizers", "config", "parametrization", "models", "data",
    "training", "executors", "sweep", "transfer", "verification", "report", "cli", "testing",
]  # fmt: skip
APART = {("models", "data"), ("data", "models"), ("executors", "training"), ("training", "executors")}
TORCH_FREE = [
    "mutransfer", "mutransfer.cli", "mutransfer.config.load", "mutransfer.config.schema", "mutransfer.data",
    "mutransfer.executors.local", "mutransfer.optimizers", "mutransfer.optimizers.lion",
    "mutransfer.parametrization.rules", "mutransfer.parametrization.plan",
    "mutransfer.sweep.space", "mutransfer.sweep.trial",
]  # fmt: skip


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("mutransfer.")}
    return found


def rooms() -> list[tuple[str, Path]]:
    return [
        (path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py") or path.parent != PACKAGE
    ]


def test_every_room_has_a_place_in_the_order():
    assert {room for room, _ in rooms()} == set(ORDER)


@pytest.mark.parametrize(("room", "path"), rooms(), ids=lambda value: value if isinstance(value, str) else value.stem)
def test_imports_point_one_way(room, path):
    for other in imported_rooms(path) - {room}:
        assert ORDER.index(other) < ORDER.index(room), f"{path} imports {other}"
        assert (room, other) not in APART, f"{path} imports {other}"


@pytest.mark.parametrize("module", TORCH_FREE)
def test_imports_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", [path for _, path in rooms()], ids=lambda path: path.stem)
def test_modules_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
