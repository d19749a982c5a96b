"""Rows of the `datasets` library: from the Hugging Face hub by name, or from local files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutransfer.data.cache import cache_key, files_key, versions
from mutransfer.data.dataset import need_extra
from mutransfer.data.paths import matching_files
from mutransfer.errors import DataError
from mutransfer.hub import why_unreachable
from mutransfer.private import dataset_fingerprint, hub_offline

JSON_ENDINGS = (".jsonl", ".json", ".ndjson")
_ROWS = 1000
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


@dataclass(frozen=True)
class Origin:
    """Where rows are: a name on the hub, or local files."""

    name: str | None = None
    config: str | None = None
    revision: str | None = None
    split: str = "train"
    files: tuple[str, ...] = ()
    """Paths and globs."""
    field: str = "data.files"
    """What messages call the files."""
    kind: str = "huggingface-text"
    """Data kind that wants them, for messages."""

    @property
    def label(self) -> str:
        """What messages name the rows."""
        if self.name is None:
            return ", ".join(self.files)
        return " ".join(part for part in (self.name, self.config, f"({self.split})") if part)


def rows(
    origin: Origin, columns: Sequence[str], *, limit: int | None = None, skip: int = 0, streaming: bool = False
) -> Iterator[tuple[Any, ...]]:
    """The values of some columns in every row, in order; local files are read as they are consumed.

    Args:
        columns: their names; dots lead into nested columns.
        limit: give the first so many rows only.
        skip: leave out so many of them at the start.
        streaming: read the hub's data as it is consumed, instead of downloading all of it first.

    Raises:
        DataError: the hub cannot be reached, or has no such data; a file cannot be read; there is no such column; the
            extra `hf` is missing.
    """
    opened = _open(origin, streaming=streaming)
    known = opened.column_names
    if known:
        for column in columns:
            if _stored(column, known) not in known:
                raise _missing(column, known, origin)
        opened = opened.select_columns(list(dict.fromkeys(_stored(column, known) for column in columns)))
    if limit is not None:
        opened = opened.take(limit)
    for row in _guarded(opened.skip(skip) if skip else opened, origin):
        yield tuple(_cell(row, column, origin, known or list(row)) for column in columns)


def texts(
    origin: Origin, column: str, *, limit: int | None = None, skip: int = 0, streaming: bool = False
) -> Iterator[str]:
    """The cells of a text column, as `rows`; raises `DataError` if one is not text."""
    found = rows(origin, (column,), limit=limit, skip=skip, streaming=streaming)
    for number, (cell,) in enumerate(found, start=skip):
        if not isinstance(cell, str):
            raise DataError(f"{origin.label}: row {number}: column {column!r} must be text, but got {cell!r}")
        yield cell


def origin_key(origin: Origin) -> str:
    """What the rows depend on, for the cache: the files' content, or what the hub has now under that name.

    Raises `DataError` if as `rows`.
    """
    need_extra("datasets", "hf", origin.kind)
    if origin.name is None:
        return files_key(matching_files(origin.files, origin.field))
    return cache_key(dataset_fingerprint(_open(origin)), versions(["datasets"]))


def _open(origin: Origin, *, streaming: bool = False) -> Any:
    """The library's data set; of local files one that streams, so that nothing is copied to another place."""
    datasets = need_extra("datasets", "hf", origin.kind)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    if origin.name is None:
        paths = matching_files(origin.files, origin.field)
        builder, data_files = _builder(list(paths.values()), origin), [str(paths[name]) for name in sorted(paths)]
        try:
            return datasets.load_dataset(builder, data_files=data_files, split="train", streaming=True)
        except Exception as error:  # files may be anything
            raise DataError(f"{origin.label}: cannot be read as {builder}: {_first_line(error)}") from None
    unreachable = why_unreachable(_endpoint())
    with hub_offline() if unreachable else nullcontext():  # what it has in its cache it gives then too, and at once
        try:
            return datasets.load_dataset(
                origin.name, origin.config, revision=origin.revision, split=origin.split, streaming=streaming
            )
        except Exception as error:  # the library raises whatever its own dependencies do
            raise DataError(_why(origin, error, unreachable)) from None


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def _builder(paths: Sequence[Path], origin: Origin) -> str:
    kinds = {}
    for path in paths:
        ending = next((suffix for suffix in reversed(path.suffixes) if suffix not in _COMPRESSED), "").lower()
        kinds[{".parquet": "parquet"}.get(ending, "json" if ending in JSON_ENDINGS else "text")] = path
    if len(kinds) > 1:
        found = " and ".join(f"{path.name} ({kind})" for kind, path in kinds.items())
        raise DataError(f"{origin.field}: all files must be of one kind, but there are {found}")
    return next(iter(kinds))


def _why(origin: Origin, error: Exception, unreachable: str | None) -> str:
    """What is the matter with a name on the hub, and what would do."""
    first = unreachable or _first_line(error)
    if unreachable or (isinstance(error, OSError) and not isinstance(error, FileNotFoundError)):
        endpoint = _endpoint()
        offline = any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
                      for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))  # fmt: skip
        tried = "HF_HUB_OFFLINE is set" if offline else f"tried {endpoint}"
        return (
            f"{origin.label}: the Hugging Face hub cannot be reached and the data is not on this machine ({tried}: "
            f"{first}); try again with a connection, or give local copies (parquet, JSON lines, text) as data.files"
        )
    return f"{origin.label}: cannot be loaded from the Hugging Face hub: {first}"


def _first_line(error: BaseException) -> str:
    """What an error of a library says, without its essay."""
    if isinstance(error, StopIteration):  # how the library says so of JSON lines
        return "it has no rows"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _guarded(opened: Any, origin: Origin) -> Iterator[dict[str, Any]]:
    """Rows as they are stored, whatever is raised on the way to one as a `DataError`."""
    # Arrow tables: ten times faster than row by row, and images are not decoded.
    given = iter(opened.with_format("arrow").iter(batch_size=_ROWS))
    number = 0
    while True:
        try:
            table = next(given).to_pylist()
        except StopIteration:
            return
        except Exception as error:  # files may be anything
            raise DataError(
                f"{origin.label}: cannot be read after row {number}: {_first_line(error.__cause__ or error)}"
            ) from None
        number += len(table)
        yield from table


def _stored(column: str, known: Sequence[str]) -> str:
    """The column in which a nested one is."""
    return column if column in known else column.split(".", maxsplit=1)[0]


def _cell(row: dict[str, Any], column: str, origin: Origin, known: Sequence[str]) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            nested = {name: cell for name, cell in row.items() if isinstance(cell, dict)}
            names = [deeper for name in known for deeper in ([f"{name}.{inner}" for inner in nested[name]]
                                                             if name in nested else [name])]  # fmt: skip
            raise _missing(column, names, origin)
        value = value[part]
    return value


def _missing(column: str, names: Sequence[str], origin: Origin) -> DataError:
    return DataError(f"{origin.label}: has no column {column!r}; its columns are {', '.join(names)}")
