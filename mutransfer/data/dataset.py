"""Token sequences and labelled examples. A training batch is a function of (seed, step)."""

from __future__ import annotations

import hashlib
import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mutransfer.errors import DataError
from mutransfer.files import at_home, open_file

if TYPE_CHECKING:
    from mutransfer.config.data import HuggingFaceTextSection, TextSection, TokensSection

    TokenSection = TextSection | HuggingFaceTextSection | TokensSection

Array = NDArray[Any]
# Inputs and targets. For a model with several inputs the first part is a tuple.
Batch = tuple[Array | tuple[Array, ...], Array]
IGNORED = -100
"""A target that the loss ignores: padding, or a token that was not masked."""

# Up to this many tokens are all read for the fingerprint and the check of ids; of longer data a sample is.
_READ_WHOLE = 1 << 27
_SAMPLED = 1 << 20


class Dataset(Protocol):
    """What training needs from a data source."""

    @property
    def fingerprint(self) -> str:
        """Changes when the data changes, so that a sweep never continues on other data."""

    def batch(self, step: int, *, batch_size: int, seed: int) -> Batch:
        """Training batch `step` (from 0). It depends only on the arguments and the data, so that resuming is exact."""

    def validation(self, *, batch_size: int, batches: int) -> Iterator[Batch]:
        """At most `batches` batches of the validation part, the same ones in every call."""


class Shards(Protocol):
    """Token ids in several files, read as one sequence."""

    @property
    def fingerprint(self) -> str:
        """Changes when the ids change; does not read them."""

    def __len__(self) -> int:
        """Number of ids."""

    def __getitem__(self, wanted: slice) -> Shards:
        """A part of the sequence; does not read it."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Read the ids."""


class TokenDataset:
    """One long sequence of token ids.

    A batch is inputs (B, S) and targets (B, S), int64; the targets are one token ahead. Training windows start at any
    token. Validation windows do not overlap.
    """

    def __init__(
        self,
        tokens: Array | Shards,
        section: TokenSection,
        *,
        vocab_size: int,
        label: str,
        held_out: int | None = None,
    ) -> None:
        """Hold out the last `held_out` tokens for validation, or else the section's share of the sequence."""
        split = len(tokens) - (round(len(tokens) * section.validation_fraction) if held_out is None else held_out)
        self._train, self._validation = tokens[:split], tokens[split:]
        seq_len = section.seq_len
        self._seq_len, self._vocab_size, self._label = seq_len, vocab_size, label
        for part, name in ((self._train, "training"), (self._validation, "validation")):
            if len(part) < seq_len + 1:
                raise DataError(
                    f"{label}: too short: the {name} part has {len(part)} tokens, but one sequence needs "
                    f"seq_len + 1 = {seq_len + 1}"
                )
        ends: tuple[Array, ...] = () if held_out is None else (np.array([held_out]),)
        if not isinstance(tokens, np.ndarray):
            self.fingerprint = tokens.fingerprint
        elif len(tokens) <= _READ_WHOLE:
            self.fingerprint = fingerprint(tokens, *ends)
            self._check_ids(tokens)
        else:
            sample = tokens[:: len(tokens) // _SAMPLED]
            ends = tokens[:_SAMPLED], tokens[-_SAMPLED:], sample, *ends
            self.fingerprint = fingerprint(np.array([len(tokens)]), *ends)

    def batch(self, step: int, *, batch_size: int, seed: int) -> Batch:  # noqa: D102 - see `Dataset`
        starts = np.random.default_rng([seed, step]).integers(0, len(self._train) - self._seq_len, size=batch_size)
        return self._windows(self._train, starts)

    def validation(self, *, batch_size: int, batches: int) -> Iterator[Batch]:  # noqa: D102 - see `Dataset`
        available = (len(self._validation) - 1) // self._seq_len
        wanted = min(batches * batch_size, available)
        starts = np.linspace(0, available - 1, wanted).astype(np.int64) * self._seq_len
        for first in range(0, wanted, batch_size):
            yield self._windows(self._validation, starts[first : first + batch_size])

    def _windows(self, tokens: Array | Shards, starts: Array) -> Batch:
        windows = np.stack([np.asarray(tokens[start : start + self._seq_len + 1]) for start in starts]).astype(np.int64)
        self._check_ids(windows)
        return windows[:, :-1], windows[:, 1:]

    def _check_ids(self, tokens: Array) -> None:
        highest = int(tokens.max())
        if highest >= self._vocab_size:
            raise DataError(f"{self._label}: has token id {highest}, but vocab_size is {self._vocab_size}")


class Epochs:
    """Which examples a step trains on: a function of (seed, step), with a new permutation each epoch."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._permutation: tuple[tuple[int, int], Array] | None = None

    def rows(self, step: int, *, batch_size: int, seed: int) -> Array:
        """Indices (batch_size,) of the examples of one batch."""
        first = step * batch_size
        whole, inside = divmod(first, self._size)
        if inside + batch_size <= self._size:  # the usual case: the batch lies in one epoch
            return self._epoch(seed, whole)[inside : inside + batch_size]
        epochs, places = np.divmod(np.arange(first, first + batch_size), self._size)
        return np.concatenate([self._epoch(seed, int(one))[places[epochs == one]] for one in np.unique(epochs)])

    def _epoch(self, seed: int, epoch: int) -> Array:
        if self._permutation is None or self._permutation[0] != (seed, epoch):
            order = np.random.default_rng([seed, epoch]).permutation(self._size)
            self._permutation = ((seed, epoch), order)
        return self._permutation[1]


class ExampleDataset(ABC):
    """Examples that are chosen by row: a new permutation each epoch in training, the held-out rows in validation."""

    def __init__(self, train: Array, held_out: Array, fingerprint: str) -> None:
        """`train` and `held_out` are the rows of the two parts."""
        self._train, self.held_out_rows, self.fingerprint = train, held_out, fingerprint
        self._epochs = Epochs(len(train))

    @abstractmethod
    def _examples_at(self, rows: Array) -> Batch:
        """The batch of these rows."""

    def _validation_rows(self, count: int) -> Array:
        """The held-out rows of a validation that takes `count` of them at most."""
        return self.held_out_rows[:count]

    def batch(self, step: int, *, batch_size: int, seed: int) -> Batch:  # noqa: D102 - see `Dataset`
        return self._examples_at(self._train[self._epochs.rows(step, batch_size=batch_size, seed=seed)])

    def validation(self, *, batch_size: int, batches: int) -> Iterator[Batch]:  # noqa: D102 - see `Dataset`
        wanted = self._validation_rows(batches * batch_size)
        for first in range(0, len(wanted), batch_size):
            yield self._examples_at(wanted[first : first + batch_size])


class ClassDataset(ExampleDataset):
    """Labelled examples, kept as they are stored and normalised when a batch is made.

    A batch is inputs (B, *shape) float32 and labels (B,) int64. Over the training part each channel (the first axis of
    an example) has mean 0 and variance 1.
    """

    def __init__(
        self,
        examples: Array,
        labels: Array,
        *,
        classes: int,
        validation_fraction: float,
        label: str,
        held_out: int | None = None,
    ) -> None:
        """Hold out the last `held_out` examples for validation, or a random `validation_fraction` if it is None."""
        train, held = split_rows(len(examples), validation_fraction, label, tail=held_out)
        if labels.min() < 0 or labels.max() >= classes:
            raise DataError(f"{label}: labels run from {labels.min()} to {labels.max()}, but classes is {classes}")
        ends = [] if held_out is None else [np.array([held_out])]
        super().__init__(train, held, fingerprint(examples, labels, *ends))
        # Decoders put channels last in memory, which makes copying a batch slow.
        self._examples, self._labels = np.ascontiguousarray(examples), labels.astype(np.int64)
        self._mean, self._std = _moments(examples, self._train)

    def _examples_at(self, rows: Array) -> Batch:
        inputs = self._examples[rows].astype(np.float32, copy=False)  # a copy, made by the indexing
        inputs -= self._mean
        inputs /= self._std
        return inputs, self._labels[rows]


def split_rows(
    size: int, fraction: float, label: str, *, tail: int | None = None, what: str = "examples"
) -> tuple[Array, Array]:
    """Rows of the training and of the validation part: the last `tail` rows, or a random `fraction` if it is None.

    Raises `DataError` if a part would be empty.
    """
    held_out = round(size * fraction) if tail is None else tail
    if not 0 < held_out < size:
        raise DataError(f"{label}: too small to split: {size} {what}")
    order = np.random.default_rng(0).permutation(size if tail is None else tail)
    if tail is not None:
        order = np.concatenate([order + size - tail, np.arange(size - tail)])
    return order[held_out:], order[:held_out]


def _moments(examples: Array, rows: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of every channel over some rows, with axes of size 1 for broadcasting."""
    axes = (0, *range(2, examples.ndim))
    if examples.dtype != np.uint8:
        chosen = examples[rows]
        mean = chosen.mean(axis=axes, keepdims=True, dtype=np.float64)
        std = chosen.std(axis=axes, keepdims=True, dtype=np.float64)
    else:  # exact sums in parts, because np.std takes eight times the memory of the data
        shape = (1, -1, *(1 for _ in axes[1:]))
        total = squares = np.zeros(examples.shape[1], dtype=np.int64)
        for first in range(0, len(rows), 1024):
            part = examples[rows[first : first + 1024]].astype(np.uint16)
            total = total + part.sum(axis=axes, dtype=np.int64)
            squares = squares + (part * part).sum(axis=axes, dtype=np.int64)
        count = len(rows) * int(np.prod(examples.shape[2:]))
        mean = (total / count).reshape(shape)
        sums = zip(total.tolist(), squares.tolist(), strict=True)  # Python integers, which do not overflow
        std = np.array([math.sqrt((square * count - one * one) / count**2) for one, square in sums]).reshape(shape)
    return mean.astype(np.float32), std.astype(np.float32) + 1e-6


def notes_of(data: Dataset) -> tuple[str, ...]:
    """Notes for the user about how the data was read, a line each."""
    return tuple(getattr(data, "notes", ()))


def fingerprint(*arrays: Array) -> str:
    """12 hex digits from the bytes of the arrays."""
    digest = hashlib.blake2b(digest_size=6)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def need_extra(module: str, extra: str, kind: str, *, needer: str | None = None) -> Any:
    """A module of an optional extra; raises `DataError` with the pip command for `needer`, or for the data kind."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"{needer or f'data kind {kind}'} needs the extra '{extra}' ({error.name or module} is missing): "
            f"pip install 'mutransfer[{extra}]'"
        ) from None


def require_file(path: str) -> Path:
    """The path with `~` expanded; raises `DataError` if it is not a file, or cannot be read."""
    file = at_home(path)
    if not file.is_file():
        raise DataError(f"{path}: {'is a folder' if file.is_dir() else 'no such file'}")
    with reading(path), open_file(file, "rb"):
        return file


@contextmanager
def reading(path: str | Path | None = None) -> Iterator[None]:
    """Turn an `OSError` into a `DataError` that names `path`, or else the error's own file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path or error.filename}: cannot be read: {error.strerror or error}") from None
