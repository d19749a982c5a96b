"""The peers' data: read once per process into tensors, normalised once, then indexed. Batches equal mutransfer's."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from workloads import Workload

Batch = tuple[Tensor, Tensor]


class Text:
    """Bytes of one file; a batch is windows that start anywhere."""

    def __init__(self, path: Path, workload: Workload) -> None:
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8).astype(np.int64)
        tokens = torch.from_numpy(content)
        split = len(tokens) - round(len(tokens) * workload.validation_fraction)
        self.train, self.held_out = tokens[:split], tokens[split:]
        self.seq_len = workload.seq_len
        self.offsets = torch.arange(self.seq_len + 1)

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """Training batch `step`: inputs and targets (B, S)."""
        starts = np.random.default_rng([seed, step]).integers(0, len(self.train) - self.seq_len, size=batch_size)
        return self._windows(self.train, torch.from_numpy(starts))

    def validation(self, batch_size: int, batches: int) -> Iterator[Batch]:
        """Windows spread over the held-out part."""
        available = (len(self.held_out) - 1) // self.seq_len
        wanted = min(batches * batch_size, available)
        starts = torch.from_numpy(np.linspace(0, available - 1, wanted).astype(np.int64) * self.seq_len)
        for some in torch.split(starts, batch_size):
            yield self._windows(self.held_out, some)

    def _windows(self, tokens: Tensor, starts: Tensor) -> Batch:
        windows = tokens[starts[:, None] + self.offsets]
        return windows[:, :-1], windows[:, 1:]


class Images:
    """Flat images with a label; a batch is the next rows of the epoch's permutation."""

    def __init__(self, images: Any, labels: Any, workload: Workload) -> None:
        held_out = round(len(images) * workload.validation_fraction)
        order = np.random.default_rng(0).permutation(len(images))
        train, test = order[held_out:], order[:held_out]
        axes = (0, *range(2, images.ndim))
        mean = images[train].mean(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)
        std = images[train].std(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32) + 1e-6
        normal = torch.from_numpy((images.astype(np.float32) - mean) / std).flatten(1)
        classes = torch.from_numpy(labels.astype(np.int64))
        self.inputs, self.labels = normal[train], classes[train]
        self.test_inputs, self.test_labels = normal[test], classes[test]
        self.orders: dict[tuple[int, int], Tensor] = {}

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """Training batch `step`: inputs (B, F), labels (B,)."""
        size = len(self.inputs)
        epoch, start = divmod(step * batch_size, size)
        rows = self._order(seed, epoch)[start : start + batch_size]
        if len(rows) < batch_size:
            rows = torch.cat((rows, self._order(seed, epoch + 1)[: batch_size - len(rows)]))
        return self.inputs[rows], self.labels[rows]

    def validation(self, batch_size: int, batches: int) -> Iterator[Batch]:
        """The first held-out rows."""
        wanted = batches * batch_size
        parts = (torch.split(part[:wanted], batch_size) for part in (self.test_inputs, self.test_labels))
        yield from zip(*parts, strict=True)

    def _order(self, seed: int, epoch: int) -> Tensor:
        if (seed, epoch) not in self.orders:
            order = np.random.default_rng([seed, epoch]).permutation(len(self.inputs))
            self.orders[seed, epoch] = torch.from_numpy(order)
        return self.orders[seed, epoch]


def load(workload: Workload, path: Path | None) -> Text | Images:
    """The data of a workload."""
    if workload.kind == "gpt":
        assert path is not None  # noqa: S101 - a script's own check
        return Text(path, workload)
    if path is not None:
        return _cifar(path, workload)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Images(digits.images[:, None], digits.target, workload)


def _cifar(path: Path, workload: Workload) -> Images:
    import pyarrow.parquet as pq
    from PIL import Image

    rows = next(pq.ParquetFile(path).iter_batches(batch_size=workload.limit, columns=["img", "label"]))
    images = [np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in rows["img"].to_pylist()]
    return Images(np.stack(images).transpose(0, 3, 1, 2), np.array(rows["label"].to_pylist()), workload)
