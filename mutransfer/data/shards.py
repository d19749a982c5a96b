"""Shards: token ids in files of bounded size with an index, read as one sequence. A shard is complete or absent."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from mutransfer.data.cache import checksum
from mutransfer.data.dataset import Array
from mutransfer.errors import DataError
from mutransfer.files import disk_errors, read_json, replacing, write_json

INDEX = "index.json"
PROGRESS = "progress.json"
_FORMAT = "mutransfer-shards"
_VERSION = 1
_Number = Annotated[int, Field(ge=0, le=2**62)]


class Shard(TypedDict):
    """One file of shards."""

    file: Annotated[str, Field(pattern=r"^shard-\d+\.bin$")]
    tokens: _Number
    checksum: str


class _Record(TypedDict):
    """What an index and a record of progress have both."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    format: Literal["mutransfer-shards"]
    version: Literal[1]
    dtype: Literal["uint8", "uint16", "uint32"]
    shards: list[Shard]
    plan: dict[str, Any]


class ShardIndex(_Record):
    """`index.json`: what a folder of shards holds."""

    tokens: _Number
    held_out: _Number | None
    vocab_size: _Number
    fingerprint: str


class ShardProgress(_Record):
    """`progress.json`: where the next shard starts."""

    position: Annotated[list[_Number], Field(min_length=4, max_length=4)]
    held_out_from: _Number | None


R = TypeVar("R", bound=_Record)


class ShardedTokens:
    """Shards as one sequence. A slice may span shards, so that their size does not change batches."""

    def __init__(self, shards: Sequence[Array], fingerprint: str, begin: int = 0, end: int | None = None) -> None:
        self._shards, self.fingerprint = list(shards), fingerprint
        self._ends = np.cumsum([len(shard) for shard in shards])
        self._begin, self._end = begin, int(self._ends[-1]) if end is None else end

    def __len__(self) -> int:
        return self._end - self._begin

    def __getitem__(self, wanted: slice) -> ShardedTokens:
        start, stop, step = wanted.indices(len(self))
        if step != 1:
            raise ValueError("shards give consecutive tokens only")
        return ShardedTokens(self._shards, self.fingerprint, self._begin + start, self._begin + max(start, stop))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        first, last = np.searchsorted(self._ends, [self._begin, max(self._begin, self._end - 1)], side="right")
        parts = []
        for number in range(first, min(last, len(self._shards) - 1) + 1):
            before = int(self._ends[number]) - len(self._shards[number])
            parts.append(self._shards[number][max(0, self._begin - before) : max(0, self._end - before)])
        return np.concatenate(parts).astype(dtype or parts[0].dtype)


def open_shards(folder: Path) -> tuple[ShardedTokens, ShardIndex]:
    """The memory-mapped shards of a prepared folder, and its index. The ids are not read.

    Raises `DataError` if the folder is not prepared completely, or a shard is missing or has the wrong size.
    """
    index = read_record(folder / INDEX, ShardIndex)
    if index is None:
        unfinished = (folder / PROGRESS).exists()
        how = "the same `mutransfer prepare` continues it" if unfinished else "`mutransfer prepare` makes one"
        raise DataError(
            f"{folder}: {'is not prepared completely' if unfinished else 'is not a folder of shards'}; {how}"
        )
    shards = []
    dtype = np.dtype(index["dtype"]).newbyteorder("<")
    for record in index["shards"]:
        path = folder / record["file"]
        if not path.is_file():
            raise DataError(f"{path}: no such file, but {folder / INDEX} lists it")
        if path.stat().st_size != record["tokens"] * dtype.itemsize:
            raise DataError(
                f"{path}: has {path.stat().st_size} bytes, but its {record['tokens']} tokens take "
                f"{record['tokens'] * dtype.itemsize}; it is damaged, prepare the data again"
            )
        shards.append(np.asarray(np.memmap(path, dtype=dtype, mode="r")))
    if not 0 <= (index["held_out"] or 0) <= index["tokens"] == sum(map(len, shards)) > 0:
        raise DataError(f"{folder / INDEX}: is damaged (its numbers of tokens do not add up); prepare the data again")
    return ShardedTokens(shards, index["fingerprint"]), index


def read_record(path: Path, form: type[R]) -> R | None:
    """An index or a record of progress; None if the file does not exist.

    Raises `DataError` if the file is damaged, or has another version.
    """
    if not path.exists():
        return None
    return read_json(path, form, advice="remove its folder and prepare the data again", error=DataError)


class ShardWriter:
    """Writes shards in order. After each one the record of progress says where the next one starts.

    A shard gets its final name when it is complete and on disk. It counts when the record lists it.
    """

    def __init__(self, folder: Path, *, dtype: str, size: int, plan: dict[str, Any]) -> None:
        """Continue after the shards that the folder's record lists, if it has one.

        Args:
            size: tokens per shard; the last shard has the rest.
            plan: settings and source of the shards, stored in the record.

        Raises:
            DataError: a listed shard is damaged.
        """
        self._folder, self._size, self._plan = folder, size, plan
        self._dtype = np.dtype(dtype).newbyteorder("<")
        record = read_record(folder / PROGRESS, ShardProgress)
        self.shards: list[Shard] = [] if record is None else record["shards"]
        self.position: tuple[int, ...] = (0, 0, 0, 0) if record is None else tuple(record["position"])
        """Where the next shard starts: unit, document, piece, token."""
        self.held_out_from: int | None = None if record is None else record["held_out_from"]
        """Number of tokens before the validation part; None until that is reached."""
        self._waiting: list[Array] = []
        self._held = 0
        for shard in self.shards:
            path = folder / shard["file"]
            with disk_errors(path):
                if not path.exists() or checksum(path) != shard["checksum"]:
                    raise DataError(f"{path}: is damaged; remove {folder} and prepare the data again")

    @property
    def tokens(self) -> int:
        """Number of tokens added so far."""
        return sum(int(shard["tokens"]) for shard in self.shards) + self._held

    def add(self, ids: Array, ends: Sequence[tuple[int, tuple[int, int, int]]], *, skipped: int = 0) -> None:
        """Add the ids of some pieces.

        Args:
            ends: for each piece its end in `ids` and its place (unit, document, piece).
            skipped: number of ids of the first piece that are in earlier shards and not in `ids`.

        Raises:
            UsageError: a file cannot be written.
        """
        start = 0
        while start < len(ids):
            taken = min(len(ids) - start, self._size - self._held)
            self._waiting.append(ids[start : start + taken])
            self._held += taken
            start += taken
            if self._held == self._size:
                self._flush(_place(ends, start, skipped))

    def finish(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Write the last shard and the index, and remove the record of progress.

        Raises `UsageError` if a file cannot be written.
        """
        if self._held:
            self._flush(self.position)
        total = self.tokens
        digest = hashlib.blake2b(digest_size=6)
        held_out = None if self.held_out_from is None else total - self.held_out_from
        for part in (str(self._dtype.name), total, held_out, *(shard["checksum"] for shard in self.shards)):
            digest.update(f"{part}\n".encode())
        index = {
            **self._header(),
            "tokens": total,
            "held_out": held_out,
            "fingerprint": digest.hexdigest(),
            **facts,
            "plan": self._plan,
            "shards": self.shards,
        }
        write_json(self._folder / INDEX, index)
        (self._folder / PROGRESS).unlink(missing_ok=True)
        return index

    def begin(self) -> None:
        """Write the record of progress."""
        record = {
            **self._header(),
            "plan": self._plan,
            "position": list(self.position),
            "held_out_from": self.held_out_from,
            "shards": self.shards,
        }
        write_json(self._folder / PROGRESS, record)

    def _header(self) -> dict[str, Any]:
        return {"format": _FORMAT, "version": _VERSION, "dtype": self._dtype.name}

    def _flush(self, position: tuple[int, ...]) -> None:
        name = f"shard-{len(self.shards):05d}.bin"
        with replacing(self._folder / name) as partial:
            with partial.open("wb") as file:
                for ids in self._waiting:
                    file.write(ids.astype(self._dtype).tobytes())
            total = checksum(partial)
        self.shards.append(Shard(file=name, tokens=self._held, checksum=total))
        self._waiting, self._held, self.position = [], 0, position
        self.begin()


def _place(ends: Sequence[tuple[int, tuple[int, int, int]]], at: int, skipped: int) -> tuple[int, ...]:
    """The piece that contains token `at` of a batch or ends there, and the number of its tokens before `at`."""
    begin = -skipped
    for end, piece in ends:
        if at <= end:
            return (*piece, at - begin)
        begin = end
    raise AssertionError
