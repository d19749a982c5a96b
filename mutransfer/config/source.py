"""YAML text as plain data that remembers the line of every key."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mutransfer.errors import ConfigError
from mutransfer.files import read_text
from mutransfer.shown import masked, quoted

FieldPath = tuple[str | int, ...]


_MOST_BYTES = 500_000
_MOST_VALUES = 20_000
_MOST_LEVELS = 50
_MOST_CHARACTERS = 10_000
_MOST_DIGITS = 40
_CORE = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """SafeLoader with the numbers of YAML 1.2: `1e-3` is one, and `012` or `1:30` are not octal and base 60.

    It gives up on text with more values, or deeper ones, than a config has.
    """

    values = levels = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """PyYAML's, counted."""
        self.values, self.levels = self.values + 1, self.levels + 1
        _require_few(self.values, self.levels, self.line + 1)
        try:
            return super().compose_node(parent, index)
        finally:
            self.levels -= 1


class _NotPlain(ValueError):
    """YAML that is not the plain data of a config."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _require_few(values: int, levels: int, line: int) -> None:
    if values > _MOST_VALUES:
        raise _NotPlain(line, f"there are more than {_MOST_VALUES} values, where *NAME counts as what it stands for")
    if levels > _MOST_LEVELS:
        raise _NotPlain(line, f"sections or lists are nested more than {_MOST_LEVELS} levels deep")


_Loader.yaml_implicit_resolvers = {
    key: [pair for pair in pairs if pair[0].rpartition(":")[2] not in ("float", "int", "timestamp", "value")]
    for key, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes a text which `_Loader` would read as a number, such as `0E0`."""


for _reader in (_Loader, _Dumper):
    _reader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:(?:\d[\d_]*(?:\.[\d_]*)?|\.\d+)(?:[eE][-+]?\d+)|\d[\d_]*\.[\d_]*|\.\d[\d_]*"
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
    return "--set " + masked(assignment)


def read_yaml(path: Path) -> ConfigSource:
    """Read a YAML file.

    Raises:
        ConfigError: the file is missing, unreadable, not UTF-8 or not YAML.
    """
    return parse_yaml(read_text(path, most=_MOST_BYTES, error=ConfigError), str(path))


def parse_yaml(text: str, label: str, *, one_line: bool = False) -> ConfigSource:
    """Parse YAML text; duplicate keys are errors.

    Args:
        one_line: messages name no line, for text that has only one.

    Raises:
        ConfigError: `text` is not YAML, has a key twice, or is more than a config can be.
    """
    source = ConfigSource(label, None)

    def where(line: int) -> str:
        return label if one_line else f"{label}:{line}"

    try:
        loader = _Loader(text)  # looks for forbidden characters at once
        node = loader.get_single_node()
        if node is not None:
            source.data = _Plain(loader, source).value(node, (), 1)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{where(line)}: YAML syntax error: character {error.character!r} is not allowed") from None
    except _NotPlain as error:
        raise ConfigError(f"{where(error.line)}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, error.problem or "it cannot be read"
        raise ConfigError(f"{where(mark.line + 1) if mark else label}: YAML syntax error: {problem}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # such as \U00110000, which is not a character
        raise ConfigError(f"{label}: cannot be read as YAML: {error}") from None
    return source


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line + 1
    return line


class _Plain:
    """Builds plain data of a document's nodes. Anchors give a copy each time, so that fields stay independent."""

    def __init__(self, loader: _Loader, source: ConfigSource) -> None:
        self._loader, self._lines, self._values = loader, source.lines, 0

    def value(self, node: yaml.Node, path: FieldPath, level: int) -> Any:
        self._values += 1
        self._lines.setdefault(path, _line(node))
        _require_few(self._values, level, self._lines[path[:1]])  # anchors may name each other, or themselves
        if isinstance(node, yaml.MappingNode) and node.tag == _CORE + "map":
            return self._mapping(node, path, level)
        if isinstance(node, yaml.SequenceNode) and node.tag == _CORE + "seq":
            return [self.value(item, (*path, index), level + 1) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        raise _NotPlain(_line(node), f"the tag {quoted(node.tag)} is not possible here; leave it out")

    def _mapping(self, node: yaml.MappingNode, path: FieldPath, level: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _CORE + "merge":  # <<: *anchor, or <<: [*anchor, …], of which the first counts
                many = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for one in many:
                    if not isinstance(one, yaml.MappingNode):
                        raise _NotPlain(_line(key_node), "what follows << must be a section, or a list of sections")
                    merged = {**self.value(one, path, level + 1), **merged}
                continue
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else key_node.value
            if not isinstance(key, str):
                raise _NotPlain(_line(key_node), f"keys must be text, but got {quoted(key)}")
            if key in found:
                raise _NotPlain(_line(key_node), f"{'.'.join(map(str, (*path, key)))} is given twice")
            self._lines[(*path, key)] = _line(key_node)
            found[key] = self.value(value_node, (*path, key), level + 1)
        return merged | found

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, kind = node.value, node.tag.removeprefix(_CORE)
        if len(text) > _MOST_CHARACTERS:
            raise _NotPlain(_line(node), f"has {len(text)} characters, but at most {_MOST_CHARACTERS} are possible")
        if kind in ("int", "float") and len(text) > _MOST_DIGITS:
            raise _NotPlain(
                _line(node), f"{quoted(text)} has more than {_MOST_DIGITS} digits; write it as 1e3 is written"
            )
        if kind not in ("null", "bool", "int", "float", "str"):
            raise _NotPlain(_line(node), f"the tag {quoted(node.tag)} is not possible here; leave it out")
        if re.search("[\0\ud800-\udfff]", text):
            raise _NotPlain(_line(node), f"{quoted(text)} has a character that no file can hold")
        try:
            return self._loader.construct_object(node)
        except (ValueError, KeyError, IndexError, OverflowError, yaml.YAMLError):
            raise _NotPlain(_line(node), f"{quoted(text)} is not a value of the tag !!{kind}") from None
