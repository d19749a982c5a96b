"""A corpus of any size, as numbered pieces of text. Reading can start at any piece."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from mutransfer.config.base import FieldProblem
from mutransfer.config.data import AnyDataSection, HuggingFaceTextSection, TextSection, TokenizerField, TokenizerSection
from mutransfer.data.corpus import blocks
from mutransfer.data.dataset import need_extra, reading
from mutransfer.data.huggingface import origins
from mutransfer.data.paths import matching_files
from mutransfer.data.rows import JSON_ENDINGS, Origin, texts
from mutransfer.data.text import text_files
from mutransfer.errors import DataError, UsageError
from mutransfer.files import at_home, open_file

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Piece:
    """Some whole lines of a document."""

    unit: int
    document: int
    number: int
    text: str
    last: bool
    """Whether it is the last piece of the document."""

    @property
    def place(self) -> tuple[int, int, int]:
        """Its position in the corpus: (unit, document, number)."""
        return self.unit, self.document, self.number


class TextFile:
    """A file that is one document."""

    documents = None

    def __init__(self, path: Path, *, raw: bool) -> None:
        self.path, self.label, self._raw = path, str(path), raw
        self.size = path.stat().st_size

    def pieces(self, number: int, document: int = 0, piece: int = 0) -> Iterator[Piece]:
        """The pieces from a position on, in the unit with this number; raises `DataError` if it cannot be read."""
        if document > 0 or not self.size:
            return
        waiting: Piece | None = None
        for index, text in enumerate(blocks(self._chunks())):
            if waiting is not None:
                yield waiting
            waiting = Piece(number, 0, index, text, last=False) if index >= piece else None
        if waiting is not None:
            yield Piece(number, 0, waiting.number, waiting.text, last=True)

    def facts(self) -> dict[str, Any]:
        """What identifies the content. Shards are continued only if it has not changed."""
        return {"file": self.path.name, "bytes": self.size, "changed": self.path.stat().st_mtime_ns}

    def _chunks(self) -> Iterator[str]:
        """The text in chunks. Any bytes are accepted if bytes are the tokens, otherwise UTF-8 only."""
        errors, newline = ("surrogateescape", "") if self._raw else ("strict", None)
        try:
            with (
                reading(self.path),
                open_file(self.path, "r", encoding="utf-8", errors=errors, newline=newline) as file,
            ):
                while chunk := file.read(_CHUNK):
                    yield chunk
        except UnicodeDecodeError:
            raise DataError(f"{self.path}: is not UTF-8 text; only the tokenizer bytes reads any file") from None


class Rows:
    """A file of rows or a data set of the hub. The text of a row is a document. Its methods are as in `TextFile`."""

    size = 0
    """Bytes; 0 if unknown."""
    documents: int | None = None
    """Number of documents for the display of progress; None if unknown."""

    def __init__(self, origin: Origin, column: str, limit: int | None, path: Path | None = None) -> None:
        self.label, self._origin, self._column, self._limit, self._path = origin.label, origin, column, limit, path
        if path is not None:
            self.size = path.stat().st_size
            if path.suffix == ".parquet":
                parquet = need_extra("pyarrow.parquet", "hf", origin.kind)
                try:
                    self.documents = int(parquet.ParquetFile(path).metadata.num_rows)
                except Exception as error:
                    raise DataError(f"{path}: cannot be read as parquet: {error}") from None
            elif path.suffix in JSON_ENDINGS:
                self.documents = _about_lines(path)

    def pieces(self, number: int, document: int = 0, piece: int = 0) -> Iterator[Piece]:  # noqa: D102
        found = texts(self._origin, self._column, limit=self._limit, skip=document, streaming=True)
        for index, cell in enumerate(found, start=document):
            parts = list(blocks([cell]))
            for part, text in enumerate(parts):
                if index > document or part >= piece:
                    yield Piece(number, index, part, text, last=part == len(parts) - 1)

    def facts(self) -> dict[str, Any]:  # noqa: D102
        known: dict[str, Any] = {"column": self._column, "limit": self._limit}
        if self._path is not None:
            stat = self._path.stat()
            return {"file": self._path.name, "bytes": stat.st_size, "changed": stat.st_mtime_ns, **known}
        return {name: getattr(self._origin, name) for name in ("name", "config", "revision", "split")} | known


Unit = TextFile | Rows


@dataclass(frozen=True)
class DataSource:
    """The units of a corpus: the training part, then the validation part if it is separate."""

    units: tuple[Unit, ...]
    held_out: tuple[Unit, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all units; 0 if a size is unknown."""
        sizes = [unit.size for unit in (*self.units, *self.held_out)]
        return sum(sizes) if all(sizes) else 0

    def pieces(self, position: Sequence[int] = (0, 0, 0)) -> Iterator[Piece]:
        """All pieces from a position on."""
        unit, document, piece = position[:3]
        for number, one in enumerate((*self.units, *self.held_out)):
            if number >= unit:
                yield from one.pieces(number, *((document, piece) if number == unit else (0, 0)))

    def facts(self) -> dict[str, Any]:
        """What identifies the corpus."""
        return {
            "source": [unit.facts() for unit in self.units],
            "held_out": [unit.facts() for unit in self.held_out],
        }


def source_of(section: AnyDataSection) -> DataSource:
    """The corpus of a data section.

    Raises:
        UsageError: the section has no text.
        DataError: files are missing.
    """
    if section.corpus is None:
        raise UsageError(
            f"{section.label} has no text to prepare; use a data kind with text, for example text or huggingface-text"
        )
    return cast(DataSource, pkgutil.resolve_name(section.corpus)(section))


def corpus_of_text(section: TextSection) -> DataSource:
    """The corpus in the files of `data: {kind: text}`."""
    raw = section.tokenizer.kind == "bytes"
    return DataSource(*(tuple(TextFile(path, raw=raw) for path in part.values()) for part in text_files(section)))


def corpus_of_rows(section: HuggingFaceTextSection) -> DataSource:
    """The corpus in the text column of `data: {kind: huggingface-text}`."""
    training, validation = origins(section)
    held_out = () if validation is None else _units(validation, section.column, None)
    return DataSource(_units(training, section.column, section.limit), held_out)


def source_of_files(patterns: Sequence[str], *, column: str, raw: bool) -> DataSource:
    """The corpus in files: a column of parquet and JSON lines, and text; raises `DataError` if files are missing."""
    units: list[Unit] = []
    for path in matching_files(patterns, "--input").values():
        if any(ending in path.suffixes for ending in (".parquet", *JSON_ENDINGS)):
            units.append(Rows(Origin(files=(str(path),), field="--input"), column, None, path))
        else:
            units.append(TextFile(path, raw=raw))
    units.sort(key=lambda unit: unit.label)
    return DataSource(tuple(units))


def _about_lines(path: Path) -> int:
    """Estimate of the number of lines, from the first chunk."""
    with reading(path), open_file(path, "rb") as file:
        begin: bytes = file.read(_CHUNK)
    return max(1, begin.count(b"\n")) * path.stat().st_size // max(1, len(begin))


def tokenizer_of(name: str | None, vocab_size: int | None, eos: str | None) -> TokenizerSection:
    """The tokenizer from the options of `prepare`; `name` is a kind or a file.

    Raises `UsageError` if an option is wrong.
    """
    kinds = ("bytes", "words", "bpe")
    if name is not None and name not in kinds and not at_home(name).exists():
        near = difflib.get_close_matches(name, kinds, n=1)
        raise UsageError(
            f"--tokenizer {name}: no such file or kind of tokenizer{f'; did you mean {near[0]}?' if near else ';'} "
            f"give {', '.join(kinds)}, or the path of a tokenizer.json of the tokenizers library"
        )
    given: dict[str, Any] = {"kind": name or "bytes"} if name in (None, *kinds) else {"file": name}
    given |= {key: value for key, value in (("vocab_size", vocab_size), ("eos", eos)) if value is not None}
    try:
        return TypeAdapter(TokenizerField).validate_python(given)
    except ValidationError as error:
        cause = error.errors()[0].get("ctx", {}).get("error")
        field = cause.path[0] if isinstance(cause, FieldProblem) else "tokenizer"
        option = "--tokenizer" if field == "file" else f"--{str(field).replace('_', '-')}"
        hint = "" if field != "file" else f" (kinds are {', '.join(kinds)})"
        raise UsageError(f"{option}: {cause or error}{hint}") from None


def _units(origin: Origin, column: str, limit: int | None) -> tuple[Unit, ...]:
    if origin.name is not None or limit is not None:
        return (Rows(origin, column, limit),)
    paths = matching_files(origin.files, origin.field)
    return tuple(
        Rows(Origin(files=(str(paths[name]),), field=origin.field, kind=origin.kind), column, None, paths[name])
        for name in sorted(paths)
    )
