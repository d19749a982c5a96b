"""Imports point one way, and what must answer at once imports no torch."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from mutransfer.config.data import DATA_SOURCES
from mutransfer.config.executors import EXECUTORS
from mutransfer.config.models import MODELS
from mutransfer.training.trainers import TRAINERS
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "mutransfer"
# A room may import from rooms before it, and from itself.
ORDER = [
    "shown", "messages", "errors", "registry", "signals", "files", "hub", "private", "optimizers", "config",
    "parametrization", "models", "data", "training", "executors", "sweep", "transfer", "verification", "integrations",
    "report", "cli", "testing",
]  # fmt: skip
APART = {("models", "data"), ("data", "models"), ("executors", "training"), ("training", "executors")}
TORCH_FREE = [
    "mutransfer", "mutransfer.cli", "mutransfer.config.load", "mutransfer.config.schema", "mutransfer.data",
    "mutransfer.executors.local", "mutransfer.integrations", "mutransfer.optimizers", "mutransfer.optimizers.lion",
    "mutransfer.parametrization.rules", "mutransfer.parametrization.plan", "mutransfer.sweep.space",
    "mutransfer.sweep.trial", "mutransfer.training.run", "mutransfer.training.trainers.command",
    "mutransfer.training.trainers.in_process",
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
SECTIONS = [registry.load(name) for registry in (MODELS, DATA_SOURCES, EXECUTORS) for name in registry.built_in]
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


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def statements_on_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """What runs on import, and what a type checker sees there: `if`, `try` and `with` are entered, also
    `if TYPE_CHECKING`; functions and classes are not."""
    for node in body:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for part in ("body", "orelse", "finalbody"):
                yield from statements_on_import(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from statements_on_import(handler.body)


def imported_modules(path: Path) -> set[str]:
    """Modules of the package that this one imports, outside functions."""
    found = set()
    for node in statements_on_import(ast.parse(path.read_text(encoding="utf-8")).body):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]  # a module, or a name in one
            names = [name if name in MODULES else str(node.module) for name in names]
        found |= {name for name in names if name in MODULES}
    return found - {module_name(path)}


def test_no_modules_import_each_other():
    """Type-only imports count. Imports inside functions do not: they run late on purpose, and the order of the rooms
    holds for them too. mutransfer/__init__.py names the public objects for type checkers, so it is not looked at."""
    graph = {name: imported_modules(path) for name, path in MODULES.items() if name != "mutransfer"}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"an import circle: {' ← '.join(error.args[1])}")


def public_types(path: Path) -> Iterator[str]:
    """Names of the classes and type aliases that a module defines at its top level."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.TypeAlias) if sys.version_info >= (3, 12) else False:
            targets = [node.name]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_every_public_class_has_a_name_of_its_own():
    """Also type aliases; type variables (`T`) are not public types."""
    homes: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for name in public_types(path):
            if re.fullmatch(r"[A-Z]+[a-z]\w*", name):
                homes.setdefault(name, []).append(module)
    assert len(homes) > 100
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


# The one place where private names of other packages are used, and the tests that guard it.
FENCES = {"mutransfer/private.py": "tests/test_private.py"}
PUBLIC_IN_SPITE_OF_THEIR_NAMES = {"os._exit"}


def private_names(code: str) -> Iterator[str]:
    """Uses of private names that this code does not define (`library._thing`, `getattr(x, "_thing")`, `from
    library._part import …`), and changes of what it imports (`library.thing = …`)."""
    nodes = list(ast.walk(ast.parse(code)))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) in ("self", "cls")}  # fmt: skip
    imported = {str(alias.asname or alias.name).split(".")[0]
                for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}  # fmt: skip
    for node in nodes:
        names: list[str] = []
        if isinstance(node, ast.Attribute):
            names = [node.attr] if node.attr not in own else []
            root = ast.unparse(node).split(".")[0]
            if ast.unparse(node) == "type.__setattr__" or (root in imported and not isinstance(node.ctx, ast.Load)):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            names = [str(node.args[1].value)] if isinstance(node.args[1], ast.Constant) else []
        elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith("mutransfer"):
            names = [*str(node.module).split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        if any(re.match(r"_(?!_)", name) for name in names):
            yield ast.unparse(node)


@pytest.mark.parametrize(
    ("code", "private"),
    [
        ("tensor._version", True),
        ("tensor._version = 1", True),
        ("getattr(tensor, '_version')", True),
        ("from torch.utils._python_dispatch import TorchDispatchMode", True),
        ("from torch import _C", True),
        ("import torch._dynamo as dynamo", True),
        ("from datasets import config\nconfig.HF_HUB_OFFLINE = True", True),
        ("type.__setattr__(Section, 'loss', 1)", True),
        ("class Own:\n  def __init__(self): self._x = 1\ndef f(one): return one._x", False),
        ("def _f(): pass\n_f()", False),
        ("import torch\ntorch.backends.mha.set_fastpath_enabled(False)\nx.__class__", False),
    ],
)
def test_a_private_name_is_recognised(code, private):
    assert any(private_names(code)) == private


def test_private_names_of_other_packages_stay_behind_a_fence_with_a_test():
    found = {str(path.relative_to(REPOSITORY)): set(private_names(path.read_text(encoding="utf-8")))
             - PUBLIC_IN_SPITE_OF_THEIR_NAMES for _, path in rooms()}  # fmt: skip
    assert {name for name, uses in found.items() if uses} == set(FENCES), found
    for fence, test in FENCES.items():
        functions = {node.name for node in ast.parse((REPOSITORY / fence).read_text(encoding="utf-8")).body
                     if isinstance(node, ast.FunctionDef)}  # fmt: skip
        tested = (REPOSITORY / test).read_text(encoding="utf-8")
        assert {name for name in functions if f"private.{name}(" not in tested} == set()
