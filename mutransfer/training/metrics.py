"""Losses on their way to disk, and the look for divergence, without waiting for the device at every step."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mutransfer.errors import UsageError
from mutransfer.files import disk_errors, write_atomic

_SMOOTHING = 0.9


@dataclass
class Monitor:
    """Collects losses on the device, fetches them every `interval` steps, and notices divergence.

    A run has diverged when a loss is not finite, or when the smoothed loss exceeds `factor` times the first.
    """

    factor: float
    interval: int
    losses: list[float] = field(default_factory=list)
    smoothed: float | None = None
    diverged: bool = False
    _pending: list[Tensor] = field(default_factory=list)

    @property
    def due(self) -> bool:
        """Whether enough losses are pending to fetch them."""
        return len(self._pending) >= self.interval

    def add(self, loss: Tensor) -> None:
        """Take the loss of the next step, still on the device."""
        self._pending.append(loss)

    def fetch(self) -> list[float]:
        """Bring pending losses to the host and judge them; those up to a divergence are returned."""
        if not self._pending:
            return []
        values = torch.stack(self._pending).tolist()
        self._pending.clear()
        return self.replay(values)

    def replay(self, values: list[float]) -> list[float]:
        """Judge losses that are on the host already; those up to a divergence are returned."""
        before = len(self.losses)
        for value in values:
            if self.diverged:
                break
            self.losses.append(value)
            previous = value if self.smoothed is None else self.smoothed
            self.smoothed = _SMOOTHING * previous + (1 - _SMOOTHING) * value
            self.diverged = not math.isfinite(value) or self.smoothed > self.factor * self.losses[0]
        return self.losses[before:]

    def final_loss(self) -> float | None:
        """Mean of the last tenth of the losses, at least one; None where that is not finite."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        mean = sum(tail) / max(1, len(tail))
        return mean if tail and math.isfinite(mean) else None


class MetricsFile:
    """`metrics.jsonl`: a line per step `{"step", "loss", "lr"}`, further lines for validations."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines: list[str] = []

    def add(self, record: dict[str, Any]) -> None:
        """Take one record; a number that is not finite becomes null, as JSON has no other word for it."""
        plain = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        if self._path is not None:
            self._lines.append(json.dumps(plain) + "\n")

    def flush(self) -> None:
        """Append what was added to the file.

        Raises:
            UsageError: the disk refuses.
        """
        if self._path is None or not self._lines:
            return
        with disk_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.writelines(self._lines)
        self._lines.clear()

    def restart(self, steps: int) -> list[float]:
        """Drop records beyond the first `steps` steps, as after an interruption; the losses kept, in order.

        Raises:
            UsageError: the file lacks some of those steps.
        """
        if self._path is None:
            return []
        if not steps:
            self._path.unlink(missing_ok=True)
            return []
        kept = [record for record in read_metrics(self._path) if record["step"] < steps]
        losses = [record["loss"] for record in kept if "loss" in record]
        if len(losses) != steps:
            raise UsageError(
                f"{self._path}: has {len(losses)} of the {steps} steps before the checkpoint; remove the folder "
                "and train again"
            )
        write_atomic(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        return losses


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a metrics file; a torn last line, as a kill leaves it, is passed over."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            yield record
