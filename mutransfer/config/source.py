"""YAML text as plain data that remembers the line of every key."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mutransfer.errors import ConfigError

FieldPath = tuple[str | int, ...]


# Login in a URL: what follows the user's name is not repeated in messages.
_LOGIN = re.compile(r"(://[^/@:]*:).*@")


class _Loader(yaml.SafeLoader):
    """SafeLoader with the numbers of YAML 1.2: `1e-3` is one, and `012` or `1:30` are not octal and base 60."""


_Loader.yaml_implicit_resolvers = {
    key: [pair for pair in pairs if pair[0] not in ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int")]
    for key, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes a text which `_Loader` would read as a number, such as `0E0`."""


for _reader in (_Loader, _Dumper):
    _reader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:(?:\d[\d_]*\.?[\d_]*|\.\d+)(?:[eE][-+]?\d+)|\d[\d_]*\.[\d_]*|\.\d[\d_]*"
                   r"|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
        list("-+0123456789."),
    )  # fmt: skip
    _reader.add_implicit_resolver(
        "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][\d_]*|0x[\da-fA-F_]+)$"), list("-+0123456789")
    )


def dump_yaml(data: Any) -> str:
    """Plain data as YAML that `parse_yaml` reads back unchanged; keys stay in order."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


@dataclass
class ConfigSource:
    """Data read from one file, with where each field stands."""

    label: str
    """How messages name the file."""
    data: Any
    lines: dict[FieldPath, int] = field(default_factory=dict)
    """Line (from 1) of every field."""
    overridden: dict[FieldPath, str] = field(default_factory=dict)
    """Fields that came from elsewhere (`--set …`), with a label of where."""

    def where(self, path: FieldPath) -> str:
        """`file:line` of a field, or of the nearest enclosing one."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.overridden:
                return self.overridden[path[:end]]
            if path[:end] in self.lines:
                return f"{self.label}:{self.lines[path[:end]]}"
        return self.label

    def is_overridden(self, path: FieldPath) -> bool:
        """Whether a field, or a section around it, came from elsewhere."""
        return any(path[:end] in self.overridden for end in range(1, len(path) + 1))

    def override(self, assignment: str) -> None:
        """Set one field from `dotted.path=value`; the value is YAML.

        Raises:
            ConfigError: no `=`, bad YAML, or the path leads through a value that is not a mapping.
        """
        label = override_label(assignment)
        dotted, equals, text = assignment.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"{label}: write it as dotted.path=value, for example training.steps=50")
        value = parse_yaml(text, label, one_line=True).data
        target = self.data
        for position, key in enumerate(keys[:-1]):
            inside = tuple(keys[: position + 1])
            if key not in target:
                target[key] = {}
                self.overridden[inside] = label
            if not isinstance(target[key], dict):
                raise ConfigError(f"{label}: {'.'.join(inside)} is not a section")
            target = target[key]
        target[keys[-1]] = value
        whole = tuple(keys)
        for places in (self.lines, self.overridden):  # the fields inside it are gone
            for inner in [path for path in places if path[: len(whole)] == whole]:
                del places[inner]
        self.overridden[whole] = label


def override_label(assignment: str) -> str:
    """How messages name an override."""
    return "--set " + _LOGIN.sub(r"\1***@", assignment)


def read_yaml(path: Path) -> ConfigSource:
    """Read a YAML file.

    Raises:
        ConfigError: the file is missing, unreadable, not UTF-8 or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, not a YAML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, label: str, *, one_line: bool = False) -> ConfigSource:
    """Parse YAML text; duplicate keys are errors.

    Args:
        one_line: messages name no line, for text that has only one.

    Raises:
        ConfigError: `text` is not YAML, or has a key twice.
    """
    source = ConfigSource(label, None)

    def where(line: int) -> str:
        return label if one_line else f"{label}:{line}"

    try:
        loader = _Loader(text)  # looks for forbidden characters at once
        node = loader.get_single_node()
        if node is not None:
            _walk(node, (), source, loader, where)
            source.data = loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{where(line)}: YAML syntax error: character {error.character!r} is not allowed") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where(mark.line + 1) if mark else label}: YAML syntax error: {problem}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{label}: cannot be read as YAML: {error}") from None
    return source


def _walk(node: yaml.Node, path: FieldPath, source: ConfigSource, loader: _Loader, where: Callable[[int], str]) -> None:
    source.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<: *anchor, which the loader resolves
                continue
            key = loader.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(f"{where(line)}: keys must be text, but got {key!r}")
            if key in seen:
                raise ConfigError(f"{where(line)}: {'.'.join(map(str, (*path, key)))} is given twice")
            seen.add(key)
            source.lines[(*path, key)] = line
            _walk(value_node, (*path, key), source, loader, where)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*path, index), source, loader, where)
