"""Turns a corpus of any size into shards of token ids. After a stop it continues after the last complete shard."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from mutransfer.config.data import TokenizerSection
from mutransfer.data.cache import checksum
from mutransfer.data.dataset import Array, require_file
from mutransfer.data.shards import INDEX, PROGRESS, ShardIndex, ShardProgress, ShardWriter, read_record
from mutransfer.data.source import DataSource, Piece
from mutransfer.data.tokenizer import Library, Tokenizer, open_tokenizer, restore, smallest_type
from mutransfer.errors import DataError, Interrupted, UsageError
from mutransfer.files import read_text, sole_folder, write_atomic

VOCABULARY = "vocabulary.json"
_TOKENIZER = "tokenizer.json"
LOCK = ".lock"
SHARD_TOKENS = 1 << 27
SAMPLE = 1 << 28
# Characters that a worker encodes at a time.
_BATCH = 1 << 20
Encoded = tuple[list[Piece], Array, list[int]]


@dataclass(frozen=True)
class PrepareNews:
    """Progress, reported after every batch."""

    phase: str
    """`vocabulary` while the tokenizer is trained, then `tokens`."""
    done: int
    """Bytes read."""
    total: int
    """Bytes of the corpus; 0 if unknown."""
    tokens: int
    shards: int
    """Complete shards."""


class _Stopped(Exception):
    """Stops the training of a tokenizer."""


def prepare(
    source: DataSource,
    tokenizer: TokenizerSection,
    out: Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    sample: int = SAMPLE,
    workers: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[PrepareNews], None] = lambda progress: None,
) -> dict[str, Any]:
    """Write `source` as shards into `out`, or continue an earlier call with the same arguments.

    The files depend only on the source, the tokenizer and `shard_tokens`, not on the number of workers or of
    interruptions.

    Args:
        shard_tokens: tokens per shard.
        sample: bytes of text on which a tokenizer is trained: spread over all files, or the first ones of a stream of
            unknown size.
        workers: processes that encode; 1 uses this process.

    Returns:
        The index: `tokens`, `vocab_size`, `dtype`, `shards`, `fingerprint`, …

    Raises:
        UsageError: `out` has other content, is in use or cannot be written.
        DataError: the source cannot be read.
        Interrupted: `should_stop` returned true. Complete shards are kept.
    """
    plan = {**source.facts(), "tokenizer": _settings(tokenizer), "shard_tokens": shard_tokens, "sample": sample}
    _require_free(out, plan)
    busy = f"{out}: another process is preparing data here"
    with sole_folder(out, out / LOCK, lambda: busy, begun=(VOCABULARY, PROGRESS, _TOKENIZER)):
        for left in (*out.glob(".shard-*"), *out.glob(".*.json.*")):  # a killed call left them
            left.unlink()
        os.environ["RAYON_NUM_THREADS"] = str(workers)  # the library reads it once, at its first use
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if workers > 1 else "false"
        job = _Job(source, out, plan, should_stop, on_progress)
        return job.encode(job.vocabulary(tokenizer, sample), shard_tokens, workers)


@dataclass(frozen=True)
class _Job:
    source: DataSource
    out: Path
    plan: dict[str, Any]
    should_stop: Callable[[], bool]
    on_progress: Callable[[PrepareNews], None]

    def vocabulary(self, section: TokenizerSection, sample: int) -> Tokenizer:
        """The tokenizer that an earlier call stored, or a new one."""
        path = self.out / VOCABULARY
        if (self.out / PROGRESS).exists() and path.exists():
            return restore(read_text(path, error=DataError), label=str(path))
        try:
            made = open_tokenizer(section, lambda: self._sampled(sample))
        except Exception as error:
            if self.should_stop():  # the library wraps the `_Stopped` of its texts
                raise Interrupted(f"{self.out}: stopped before the first shard") from None
            raise error from None
        write_atomic(path, made.dump())
        if isinstance(made, Library):
            write_atomic(self.out / _TOKENIZER, made.content)
        return made

    def _sampled(self, sample: int) -> Iterator[str]:
        """Every k-th piece of the training part, about `sample` bytes in total."""
        units = DataSource(self.source.units)
        stride = max(1, -(-units.size // sample))
        taken = 0
        self.on_progress(PrepareNews("vocabulary", 0, units.size, 0, 0))
        for index, piece in enumerate(units.pieces()):
            if index % stride == 0:
                taken += len(piece.text)
                yield piece.text
            if self.should_stop():
                raise _Stopped
            if taken >= sample and not units.size:
                return
            if index % 64 == 0:
                self.on_progress(PrepareNews("vocabulary", taken * stride, units.size, 0, 0))

    def encode(self, tokenizer: Tokenizer, shard_tokens: int, workers: int) -> dict[str, Any]:
        """Write the missing shards, then the index."""
        dtype = np.dtype(smallest_type(tokenizer.vocab_size)).name
        writer = ShardWriter(self.out, dtype=dtype, size=shard_tokens, plan=self.plan)
        writer.begin()
        units, training = (*self.source.units, *self.source.held_out), len(self.source.units)
        skip = writer.position[3]
        before = sum(unit.size for unit in units[: writer.position[0]])
        unit_now, read = writer.position[0], 0

        def report(done: int) -> None:
            self.on_progress(PrepareNews("tokens", done, self.source.size, writer.tokens, len(writer.shards)))

        report(before)
        encoded = _encoded(tokenizer, self.source.pieces(writer.position), workers)
        for batch, ids, lengths in self._batches(encoded, writer):
            first, last = batch[0], batch[-1]
            if first.unit >= training and writer.held_out_from is None:
                writer.held_out_from = writer.tokens
            ends = [(int(end) - skip, piece.place) for end, piece in zip(np.cumsum(lengths), batch, strict=True)]
            writer.add(ids[skip:], ends, skipped=skip)
            skip = 0
            if first.unit != unit_now:
                before, read, unit_now = sum(unit.size for unit in units[: first.unit]), 0, first.unit
            read += sum(len(piece.text) for piece in batch)
            whole = units[first.unit]
            part = whole.size * last.document // whole.documents if whole.documents else min(read, whole.size)
            report(before + part)
        if writer.tokens == 0:
            raise DataError(f"{self.out}: the source has no text, so there is nothing to write")
        return writer.finish(
            {"vocab_size": tokenizer.vocab_size, "tokenizer": self.plan["tokenizer"],
             "tokenizer_fingerprint": tokenizer.fingerprint}
        )  # fmt: skip

    def _batches(self, encoded: Generator[Encoded, None, None], writer: ShardWriter) -> Iterator[Encoded]:
        """The batches as they come, until a stop is asked for."""
        stopped = False
        try:
            for batch in encoded:
                yield batch
                stopped = self.should_stop()
                if stopped:
                    break
        except BrokenProcessPool:
            # A signal to the process group also ends the workers.
            stopped = self.should_stop()
            if not stopped:
                raise UsageError(
                    "an encoding process died, perhaps because memory ran out; the same command continues after the "
                    "last complete shard, and --workers 1 needs the least memory"
                ) from None
        finally:
            encoded.close()  # also ends the workers
        if stopped:
            kept = sum(shard["tokens"] for shard in writer.shards)
            raise Interrupted(f"{self.out}: stopped; {len(writer.shards)} shards of {kept:,} tokens are kept")


def _require_free(out: Path, plan: dict[str, Any]) -> None:
    """Refuse to overwrite files, and to continue shards with other data or settings."""
    finished = read_record(out / INDEX, ShardIndex)
    if finished is not None:
        raise UsageError(f"{out}: is prepared already ({finished['tokens']:,} tokens); name another folder with --out")
    if not out.is_dir():
        return
    begun = read_record(out / PROGRESS, ShardProgress)
    if begun is None:
        others = [path.name for path in out.iterdir() if path.name not in (LOCK, VOCABULARY, _TOKENIZER)]
        if others:
            raise UsageError(f"{out}: is not empty ({others[0]} is there); name another folder with --out")
        return
    changed = [name for name in plan if plan[name] != begun["plan"].get(name)]
    if changed:
        raise UsageError(
            f"{out}: has unfinished shards of other settings or data (different: {', '.join(changed)}); name "
            "another folder with --out, or remove this one"
        )


def _settings(tokenizer: TokenizerSection) -> dict[str, Any]:
    known = tokenizer.model_dump(exclude_none=True)
    if tokenizer.file is not None:
        known["file"] = Path(tokenizer.file).name
        known["checksum"] = checksum(require_file(tokenizer.file))
    return known


def _encoded(tokenizer: Tokenizer, pieces: Iterator[Piece], workers: int) -> Generator[Encoded, None, None]:
    """Batches of pieces in order, with all ids of a batch and the number of ids of each piece."""
    batches = _batches(pieces)
    if workers == 1:
        for batch in batches:
            yield (batch, *_encode(tokenizer, batch))
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_begin_worker, initargs=(tokenizer.dump(),)
    )
    waiting: deque[tuple[list[Piece], Future[tuple[Array, list[int]]]]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(_work, batch)))
            if len(waiting) > 2 * workers:
                done, future = waiting.popleft()
                yield (done, *future.result())
        for done, future in waiting:
            yield (done, *future.result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _batches(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Batches of pieces of one unit, about a million characters each."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        if batch and (size >= _BATCH or piece.unit != batch[-1].unit):
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += len(piece.text)
    if batch:
        yield batch


def _encode(tokenizer: Tokenizer, batch: Sequence[Piece]) -> tuple[Array, list[int]]:
    found = []
    for piece, ids in zip(batch, tokenizer.encode_texts([piece.text for piece in batch]), strict=True):
        found.append(np.concatenate([ids, tokenizer.end]) if piece.last else ids)
    return np.concatenate(found), [len(ids) for ids in found]


_tokenizer: Tokenizer | None = None


def _begin_worker(dumped: str) -> None:
    """Set up a worker. It ignores Ctrl-C, because its parent stops it, and ends when its parent ends."""
    global _tokenizer  # noqa: PLW0603 - a pool initializer can only set globals
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _tokenizer = restore(dumped)


def _work(batch: Sequence[Piece]) -> tuple[Array, list[int]]:
    assert _tokenizer is not None  # noqa: S101 - _begin_worker made it
    return _encode(_tokenizer, batch)


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
