"""Checks the prose of documents and code against docs/prose.yaml: `python docs/prose.py [FILE …]`.

Generated regions, code and addresses are not prose. No linter on PyPI does this: `vale` downloads its program when it
starts, and `proselint` knows neither the comments and strings of Python nor the length of a sentence.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
_FENCED = re.compile(r"^ *```.*?^ *```|<!-- made:.*?<!-- end -->|<!--.*?-->", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n+)+")
_BREAK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*#|]|\d+\.)\s)|(?<=\|)|\n(?=\s*\w+:\s)")  # paragraph, item, cell, argument
_SENTENCE = re.compile(r"(?<=[.!?])\**\s+(?=[^a-z\s])")


def passages(path: Path) -> Iterator[tuple[int, str]]:
    """`(line, text)` of a page, or of every comment and string of a Python file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        for code in (_FENCED, _INDENTED):
            text = code.sub(lambda match: "\n" * match[0].count("\n"), text)
        yield 1, re.sub(r"\]\([^)]*\)", "]", text)
        return
    comment, last = "", 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                yield last, comment
                comment = ""
            comment, last = f"{comment}\n{token.string.lstrip('# ')}", token.start[0]
    yield last, comment
    tree = ast.parse(text)
    pieces = {piece for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for piece in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else "{…}" for part in node.values)
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in pieces:
            yield node.lineno, node.value


def findings(path: Path, rules: dict[str, Any]) -> Iterator[str]:
    """One line per finding."""
    patterns = {re.compile(rule["match"].replace("{start}", "^")): rule["instead"] for rule in rules["rules"]}
    for line, text in passages(path):
        ends = [match.start() for match in _BREAK.finditer(text)]
        for start, end in zip([0, *ends], [*ends, len(text)], strict=True):
            where = f"{path.relative_to(ROOT)}:{line + text.count(chr(10), 0, start)}"
            plain = " ".join(re.sub(r"`[^`]*`", "`code`", text[start:end]).split()).strip("|-*#> ")
            for sentence in _SENTENCE.split(plain):
                if (words := len(sentence.split())) > rules["longest_sentence"]:
                    yield f"{where}: a sentence of {words} words: {sentence[:60]} …"
                for pattern, instead in patterns.items():
                    if found := pattern.search(sentence):
                        yield f"{where}: {found[0]!r}; write: {instead}"


if __name__ == "__main__":
    settings = yaml.safe_load((ROOT / "docs" / "prose.yaml").read_text(encoding="utf-8"))
    skipped = {path for pattern in settings["skip"] for path in ROOT.glob(pattern)}
    files = [path for pattern in settings["files"] for path in sorted(ROOT.glob(pattern)) if path not in skipped]
    given = [Path(name).resolve() for name in sys.argv[1:]]
    if found := [line for path in given or files for line in findings(path, settings)]:
        sys.exit("\n".join([*found, f"{len(found)} findings"]))
