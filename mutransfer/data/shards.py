"""Token ids in files of bounded size with an index: written whole or not at all, read as one sequence."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mutransfer.data.cache import checksum
from mutransfer.data.dataset import Array
from mutransfer.errors import DataError
from mutransfer.files import disk_errors, write_json

INDEX = "index.json"
PROGRESS = "progress.json"
_FORMAT = "mutransfer-shards"
_VERSION = 1


class ShardedTokens:
    """Shards as one sequence; slices cross from one to the next, so their size makes no difference to batches."""

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


def open_shards(folder: Path) -> tuple[ShardedTokens, dict[str, Any]]:
    """The shards of a prepared folder, memory-mapped, and their index; the ids are not read.

    Raises:
        DataError: the folder was not prepared, or not to the end, or a shard is missing or has another size.
    """
    index = read_record(folder / INDEX)
    if index is None:
        unfinished = (folder / PROGRESS).exists()
        how = "the same `mutransfer prepare` continues it" if unfinished else "`mutransfer prepare` makes one"
        raise DataError(
            f"{folder}: {'is not completely prepared' if unfinished else 'is not a folder of shards'}; {how}"
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
    return ShardedTokens(shards, index["fingerprint"]), index


def read_record(path: Path) -> dict[str, Any] | None:
    """An index or a record of progress; none where there is no such file.

    Raises:
        DataError: it is damaged, or of another version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != _FORMAT or record["version"] != _VERSION:
            raise DataError(f"{path}: is of format {record['format']} {record['version']}, not {_FORMAT} {_VERSION}")
        record["shards"], record["dtype"]
        return dict(record)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: is damaged; remove its folder and prepare the data again") from None


class ShardWriter:
    """Shards one after another; after each the record of progress says where the next begins.

    A shard has its final name only when it is whole and on disk, and counts only when the record lists it.
    """

    def __init__(self, folder: Path, *, dtype: str, size: int, plan: dict[str, Any]) -> None:
        """Go on after the shards that the folder's record lists, if there are any.

        Args:
            size: tokens in a shard; the last has what is left.
            plan: what the shards are made of, kept in the record.

        Raises:
            DataError: a shard that counts is damaged.
        """
        self._folder, self._size, self._plan = folder, size, plan
        self._dtype = np.dtype(dtype).newbyteorder("<")
        record = read_record(folder / PROGRESS) or {"shards": [], "position": [0, 0, 0, 0], "held_out_from": None}
        self.shards: list[dict[str, Any]] = record["shards"]
        self.position: tuple[int, ...] = tuple(record["position"])
        """Where the next shard begins: unit, document, piece, token."""
        self.held_out_from: int | None = record["held_out_from"]
        """Tokens before the validation part, once that is reached."""
        self._waiting: list[Array] = []
        self._held = 0
        for shard in self.shards:
            path = folder / shard["file"]
            with disk_errors(path):
                if not path.exists() or checksum(path) != shard["checksum"]:
                    raise DataError(f"{path}: is damaged; remove {folder} and prepare the data again")

    @property
    def tokens(self) -> int:
        """Tokens given so far."""
        return sum(int(shard["tokens"]) for shard in self.shards) + self._held

    def add(self, ids: Array, ends: Sequence[tuple[int, tuple[int, int, int]]], *, skipped: int = 0) -> None:
        """The ids of some pieces, and for each where it ends in `ids` and what piece (unit, document, piece) it is.

        Args:
            skipped: so many ids of the first piece are in earlier shards and not in `ids`.

        Raises:
            UsageError: the disk refuses.
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
        """Write what is left and the index; the record of progress goes.

        Raises:
            UsageError: the disk refuses.
        """
        if self._held:
            self._flush(self.position)
        total = self.tokens
        digest = hashlib.blake2b(digest_size=6)
        held_out = None if self.held_out_from is None else total - self.held_out_from
        for part in (str(self._dtype.name), total, held_out, *(shard["checksum"] for shard in self.shards)):
            digest.update(f"{part}\n".encode())
        index = {
            "format": _FORMAT,
            "version": _VERSION,
            "dtype": self._dtype.name,
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
        """Write the record of progress, so that the folder says what it is being made of."""
        record = {
            "format": _FORMAT,
            "version": _VERSION,
            "dtype": self._dtype.name,
            "plan": self._plan,
            "position": list(self.position),
            "held_out_from": self.held_out_from,
            "shards": self.shards,
        }
        write_json(self._folder / PROGRESS, record)

    def _flush(self, position: tuple[int, ...]) -> None:
        name = f"shard-{len(self.shards):05d}.bin"
        path, partial = self._folder / name, self._folder / f".{name}.partial"
        with disk_errors(path):
            with partial.open("wb") as file:
                for ids in self._waiting:
                    file.write(ids.astype(self._dtype).tobytes())
                file.flush()
                os.fsync(file.fileno())
            total = checksum(partial)
            partial.replace(path)
        self.shards.append({"file": name, "tokens": self._held, "checksum": total})
        self._waiting, self._held, self.position = [], 0, position
        self.begin()


def _place(ends: Sequence[tuple[int, tuple[int, int, int]]], at: int, skipped: int) -> tuple[int, ...]:
    """The piece in which token `at` of a batch lies, or ends, and how many of its tokens come before."""
    begin = -skipped
    for end, piece in ends:
        if at <= end:
            return (*piece, at - begin)
        begin = end
    raise AssertionError
