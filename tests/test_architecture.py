"""Imports point one way, and what must answer at once imports no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from mutransfer.config.data import DataSection
from mutransfer.config.models import ModelSection
from mutransfer.training.trainers import TRAINERS
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "mutransfer"
# A room may import from rooms before it, and from itself.
ORDER = [
    "errors", "registry", "signals", "files", "hub", "config", "parametrization", "models", "data", "training",
    "executors", "sweep", "transfer", "verification", "report", "cli", "testing",
]  # fmt: skip
APART = {("models", "data"), ("data", "models"), ("executors", "training"), ("training", "executors")}
TORCH_FREE = [
    "mutransfer", "mutransfer.cli", "mutransfer.config.load", "mutransfer.config.schema", "mutransfer.data",
    "mutransfer.executors.local", "mutransfer.parametrization.rules", "mutransfer.parametrization.plan",
    "mutransfer.sweep.space", "mutransfer.sweep.trial", "mutransfer.training.run",
    "mutransfer.training.trainers.command", "mutransfer.training.trainers.in_process",
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


# Exports to other trainers may ask whether the model is a gpt.
MOST_KIND_QUESTIONS = 3
SECTIONS = [one for union in (ModelSection, DataSection) for one in get_args(get_args(union)[0])]
CLASSES = {one.__name__ for one in SECTIONS}
KINDS = {kind for one in SECTIONS for kind in get_args(one.model_fields["kind"].annotation)} | set(TRAINERS)


def asks_for_a_kind(node: ast.AST) -> bool:
    """Whether it tests for a model, data source or trainer by its class or its name, and not for an ability."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass"):
        named = {one.id for argument in node.args[1:] for one in ast.walk(argument) if isinstance(one, ast.Name)}
        return bool(named & CLASSES)
    if isinstance(node, ast.MatchClass):
        return any(isinstance(one, ast.Name) and one.id in CLASSES for one in ast.walk(node.cls))
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        constants = {one.value for side in sides for one in ast.walk(side) if isinstance(one, ast.Constant)}
        asked = {one.attr for one in ast.walk(node.left) if isinstance(one, ast.Attribute)}
        return bool(asked & {"kind", "trainer"}) and bool(constants & KINDS)
    return False


def test_few_places_ask_for_a_kind_of_model_data_or_trainer():
    found = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for _, path in rooms()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if asks_for_a_kind(node)
    ]
    assert len(found) <= MOST_KIND_QUESTIONS, f"declare an ability on the section instead: {', '.join(found)}"


@pytest.mark.parametrize(
    ("code", "asks"),
    [
        ("isinstance(config.model, CommandSection)", True),
        ("isinstance(data, models.base.TokensSection | TextSection)", True),
        ("config.model.kind == 'gpt'", True),
        ("section.kind in ('mlp', 'resnet')", True),
        ("config.trainer.name != 'command'", True),
        ("config.trainer.packs", False),
        ("pruner.kind == 'median'", False),
        ("isinstance(section, BaseModelSection)", False),
    ],
)
def test_a_question_for_a_kind_is_recognised(code, asks):
    assert any(asks_for_a_kind(node) for node in ast.walk(ast.parse(code))) == asks
