"""Factories of the user's own, named in a config as `package.file:function`. Imports no torch.

The current folder is on the path, as for `python -m`. An error in the user's code becomes one message with the
place in that code; `MUTRANSFER_DEBUG=1` shows the whole traceback.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from mutransfer.config.base import FieldProblem
from mutransfer.errors import ConfigError, nearest
from mutransfer.shown import quoted

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def _is_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"must be written package.file:function (dots, no slashes, no .py), but got {quoted(value)}")
    return value


FactoryName = Annotated[str, AfterValidator(_is_name)]
"""`package.file:function`."""


def require_plain(extra: Mapping[str, Any] | None) -> None:
    """Refuse arguments that are not what YAML can hold.

    Raises:
        FieldProblem: with the path of the value.
    """
    for name, value in (extra or {}).items():
        _require_plain((name,), value)


def _require_plain(path: tuple[str | int, ...], value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _require_plain((*path, key), inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _require_plain((*path, index), inner)
    elif value is None:
        raise FieldProblem(path, "is empty; remove the key to use the factory's default")
    elif not isinstance(value, str | bool | int | float):
        raise FieldProblem(path, f"must be text, a number, true or false, a list or a section, but got {quoted(value)}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise FieldProblem(path, f"must be finite, but got {quoted(value)}")


def call_factory(
    field: str, name: str, arguments: Mapping[str, Any], offers: Mapping[str, Any], own: Iterable[str]
) -> Any:
    """Import the factory and call it with keywords.

    Args:
        field: the config field with the factory's name, for messages.
        arguments: from the section; each must be a parameter of the factory.
        offers: passed where the factory has a parameter of that name and the section gives no value.
        own: fields of the section, to suggest for a mistyped name.

    Raises:
        ConfigError: there is no such module or function, it does not take an argument, or it raised.
    """
    factory = find_factory(field, name)
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    takes = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    takes_all = not parameters or any(one.kind is one.VAR_KEYWORD for one in parameters)
    given = {**{key: value for key, value in offers.items() if key in takes}, **arguments}
    section = field.partition(".")[0]
    for key in given:
        if key not in takes and not takes_all:
            hint = nearest(key, [*takes, *own], "the names are")
            raise ConfigError(f"{section}.{key}: is not a field of this section or a parameter of {name}; {hint}")
    missing = [one.name for one in parameters
               if one.name in takes and one.default is one.empty and one.name not in given]  # fmt: skip
    if missing:
        raise ConfigError(f"{section}.{missing[0]}: is required: {name} has a parameter of that name without a default")
    try:
        return factory(**given)
    except Exception as error:
        raise ConfigError(f"{field}: {name} raised {said(error)}") from error


def find_factory(field: str, name: str) -> Callable[..., Any]:
    """The function of that name.

    Raises:
        ConfigError: there is none, or importing its file raised.
    """
    home, _, attributes = name.partition(":")
    here = os.getcwd()  # noqa: PTH109 - an entry of sys.path is text
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        importlib.invalidate_caches()
        found: Any = importlib.import_module(home)
    except ModuleNotFoundError as error:
        if error.name is not None and (home == error.name or home.startswith(f"{error.name}.")):
            raise ConfigError(
                f"{field}: there is no module {home} in the current folder ({here}) or among the installed packages"
            ) from error
        raise ConfigError(f"{field}: importing {home} raised {said(error)}") from error
    except Exception as error:
        raise ConfigError(f"{field}: importing {home} raised {said(error)}") from error
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            names = [one for one in vars(found) if callable(getattr(found, one)) and not one.startswith("_")]
            near = difflib.get_close_matches(attribute, names, n=1)
            raise ConfigError(f"{field}: {home} has no {attribute}{f'; did you mean {near[0]}?' if near else ''}")
        found = getattr(found, attribute)
    if not callable(found):
        raise ConfigError(f"{field}: {name} is a {type(found).__name__}, which cannot be called")
    factory: Callable[..., Any] = found
    return factory


def code_of(names: Iterable[str]) -> str:
    """12 hex digits that change with the user's code behind these factories, but not with its comments.

    The code is that of the factories' own files and of what these import, installed packages left out. What else the
    process has imported does not count.
    """
    found: dict[str, str] = {}
    todo = [name.partition(":")[0] for name in names]
    while todo:
        name = todo.pop()
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None) or ""
        if name in found or not _is_users_own(name, file):
            continue
        tree = ast.parse(Path(file).read_bytes())
        found[name] = ast.dump(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                todo += [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom):
                relative = "." * node.level + (node.module or "")
                home = importlib.util.resolve_name(relative, getattr(module, "__package__", None) or name)
                todo += [home, *(f"{home}.{one.name}" for one in node.names)]
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:12]


def _is_users_own(name: str, file: str) -> bool:
    installed = {"site-packages", "dist-packages"} & set(Path(file).parts) or file.startswith(sys.base_prefix)
    return file.endswith(".py") and not installed and name.partition(".")[0] != __name__.partition(".")[0]


def said(error: BaseException) -> str:
    """An exception of the user's code on one line, with the last place outside this package where it passed."""
    package = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120 - frames name their files as text
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(package)]
    own = [frame for frame in frames if "site-packages" not in frame.filename and "<frozen" not in frame.filename
           and not frame.filename.startswith(sys.base_prefix)]  # fmt: skip
    place = (own or frames)[-1:]
    where = f" ({place[0].filename}:{place[0].lineno})" if place else ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename}:{error.lineno})"
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first}{where}"
