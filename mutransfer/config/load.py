"""Config files in and out: YAML to a validated `RunConfig`, with errors that name file, line and field."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mutransfer.config.base import FieldProblem
from mutransfer.config.data import DATA_SOURCES
from mutransfer.config.executors import EXECUTORS
from mutransfer.config.hparams import OPTIMIZER_TAGS
from mutransfer.config.models import MODELS
from mutransfer.config.schema import RunConfig
from mutransfer.config.search import SearchSection
from mutransfer.config.source import ConfigSource, FieldPath, dump_yaml, override_label, read_yaml
from mutransfer.errors import ConfigError
from mutransfer.files import write_atomic
from mutransfer.messages import message_of
from mutransfer.registry import Registry
from mutransfer.shown import quoted

_MOST_PROBLEMS = 20


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and validate a run config.

    Args:
        path: YAML file.
        overrides: `dotted.path=value` assignments, applied in order before validation.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is not a possible run; the message has one
            line per problem, each with file, line and field.
    """
    path = Path(path)
    source = _assembled(path, overrides)
    try:
        return RunConfig.model_validate(source.data)
    except ValidationError as error:
        _blame_overrides(error, source, path, overrides)
        raise _in_words(error, source) from None


def _assembled(path: Path, overrides: Sequence[str]) -> ConfigSource:
    """The file's data with overrides and the search file in it."""
    source = read_yaml(path)
    if not isinstance(source.data, dict):
        raise ConfigError(f"{path}: must be a mapping with name, model and data")
    _read_search(path, source)
    for assignment in overrides:
        source.override(assignment)
        _read_search(path, source)
    return source


def _blame_overrides(found: ValidationError, source: ConfigSource, path: Path, overrides: Sequence[str]) -> None:
    """Name the first override that made a valid config invalid in the errors of the other fields."""
    wrong: set[FieldPath] = set()
    for count in range(len(overrides) + 1):
        try:
            RunConfig.model_validate(_assembled(path, overrides[:count]).data)
        except ValidationError as error:
            if not count:  # of the file itself
                return
            wrong = {_path(detail) for detail in error.errors()}
            field = overrides[count - 1].partition("=")[0]
            label = override_label([one for one in overrides if one.partition("=")[0] == field][-1])
            break
    for detail in found.errors()[:_MOST_PROBLEMS]:
        place = _path(detail)
        if place in wrong and not source.is_overridden(place):
            source.overridden[place] = label


def _in_words(error: ValidationError, source: ConfigSource) -> ConfigError:
    found = error.errors()
    more = [f"… and {len(found) - _MOST_PROBLEMS} more problems"] if len(found) > _MOST_PROBLEMS else []
    return ConfigError("\n".join([*(_describe(detail, source) for detail in found[:_MOST_PROBLEMS]), *more]))


def validate(source: ConfigSource) -> RunConfig:
    """The config that plain data describes.

    Raises:
        ConfigError: it describes no possible run; one line per problem, each with where it stands.
    """
    try:
        return RunConfig.model_validate(source.data)
    except ValidationError as error:
        raise _in_words(error, source) from None


def at_width(config: RunConfig, width: int) -> RunConfig:
    """The same run at the width that `--width` gives; other compute settings and the search stay.

    Raises:
        ConfigError: the width does not fit the model's other fields.
    """
    data = config.resolved()
    data["model"]["width"] = width
    option = f"--width {width}"
    return validate(ConfigSource(option, data, overridden={("model",): option}))


def with_executor(config: RunConfig, name: str | None) -> RunConfig:
    """The same run on the executor that `--executor` names.

    Raises:
        ConfigError: there is no such executor, or it needs further fields.
    """
    if name in (None, config.executor.kind):
        return config
    option = f"--executor {name}"
    data = {**config.resolved(), "executor": {"kind": name}}
    return validate(ConfigSource(option, data, overridden={("executor",): option}))


def _read_search(config: Path, source: ConfigSource) -> None:
    """Put the content of the search file that a config names in the name's place.

    The file is looked for from the config's folder, then from the current one.
    """
    named = source.data.get("search")
    if not isinstance(named, str):
        return
    candidates = [config.parent / named, Path(named)]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise ConfigError(f"{source.where(('search',))}: search: no such file: {candidates[0]}")
    loaded = read_yaml(found)
    source.data["search"] = loaded.data
    for line_path, line in loaded.lines.items():
        source.overridden[("search", *line_path)] = f"{found}:{line}"
    if not isinstance(loaded.data, dict):
        raise ConfigError(f"{found}: must be a mapping with the keys of a search section: {', '.join(_SEARCH_KEYS)}")


_SEARCH_KEYS = tuple(SearchSection.model_fields)


def first_problem(error: ValidationError) -> str:
    """The first error as `field: message`, for a config that was not read from a file."""
    detail = error.errors()[0]
    field = ".".join(map(str, _path(detail)))
    return f"{field}: {message_of(detail)}" if field else message_of(detail)


def _describe(error: ErrorDetails, source: ConfigSource) -> str:
    """One line for one pydantic error."""
    path = _path(error)
    context = error.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, FieldProblem):
        message = str(cause)
    elif error["type"] == "extra_forbidden":
        message = _unknown_key(path, source)
        return f"{source.where(path)}: {message}"
    elif error["type"] == "union_tag_invalid":
        registry, tag = _REGISTRIES[str(path[0])], context["tag"]
        kinds = list(registry.importable)
        message = f"{quoted(tag)} is not one of {', '.join(kinds)}{_nearest(tag, kinds)}"
        if tag in registry:  # its package is broken
            message = registry.unknown(tag)
    else:
        message = message_of(error)
    return f"{source.where(path)}: {'.'.join(map(str, path)) or 'config'}: {message}"


def _path(error: ErrorDetails) -> FieldPath:
    """The field that an error is about."""
    path = _without_tags(error["loc"])
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, FieldProblem):
        return (*path, *cause.path)
    return (*path, "kind") if error["type"] == "union_tag_invalid" else path


_REGISTRIES: dict[str, Registry[Any]] = {"model": MODELS, "data": DATA_SOURCES, "executor": EXECUTORS}


def _without_tags(loc: Iterable[int | str]) -> FieldPath:
    """Pydantic's location without the kinds that it puts after the name of a section."""
    path = tuple(loc)
    if len(path) > 1 and path[1] in _REGISTRIES.get(str(path[0]), ()):
        return (path[0], *path[2:])
    if "optimizer" in path[:2]:
        return tuple(part for part in path if part not in OPTIMIZER_TAGS)
    return path


def _unknown_key(path: FieldPath, source: ConfigSource) -> str:
    key, valid = str(path[-1]), _section_keys(path, source)
    sections = [name for name in RunConfig.model_fields if name != "provenance"]
    elsewhere = [f"{name}.{key}" for name in sections if key in _section_keys((name, key), source)]
    if path[0] == "search":  # swept hparams are one level deeper
        elsewhere = [one.replace("hparams.", "search.space.") for one in elsewhere]
    near = f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else _nearest(key, valid)
    return f"{'.'.join(map(str, path))}: unknown key" + (near or f"; the keys here are {', '.join(valid)}")


def _nearest(word: str, valid: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, valid, n=1)
    return f"; did you mean {near[0]}?" if near else ""


@functools.cache
def _schema() -> dict[str, Any]:
    return RunConfig.model_json_schema()


def _section_keys(path: FieldPath, source: ConfigSource) -> list[str]:
    """Keys that the section around `path` takes, read off the published schema."""
    schema = _schema()
    node: dict[str, Any] = schema
    data = source.data
    for key in path[:-1]:
        node = node.get("properties", {}).get(str(key)) or node.get("additionalProperties") or node.get("items") or {}
        data = data.get(key, {}) if isinstance(data, dict) else {}
        for variant in node.get("anyOf", []):
            node = variant if "$ref" in variant or "items" in variant else node
        if "discriminator" in node:
            kind = data.get("kind") if isinstance(data, dict) else None
            node = {"$ref": node["discriminator"]["mapping"].get(kind, "")}
        if "$ref" in node:
            node = schema["$defs"].get(node["$ref"].rpartition("/")[2], {})
    return list(node.get("properties", {}))


def dump_config(config: RunConfig, *, heading: str = "") -> str:
    """The resolved config as YAML; reading it back gives the same config."""
    body = dump_yaml(config.resolved())
    return "".join(f"# {line}\n" for line in heading.splitlines()) + body


def save_config(config: RunConfig, path: Path, *, heading: str = "") -> None:
    """Write the resolved config, whole or not at all."""
    write_atomic(path, dump_config(config, heading=heading))


def differences(old: RunConfig, new: RunConfig, *, ignore: Iterable[str] = ()) -> list[str]:
    """Fields in which two configs differ, as `field: old → new` lines; `ignore` names dotted fields."""
    before, after = dict(_flatten(old.resolved())), dict(_flatten(new.resolved()))
    skipped = set(ignore)
    return [
        f"{name}: {before.get(name, 'not set')} → {after.get(name, 'not set')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name) and name not in skipped and name.split(".")[0] not in skipped
    ]


def _flatten(data: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
