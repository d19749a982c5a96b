"""Writes losses to disk and checks for divergence, without waiting for the device at every step."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Required

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mutransfer.config.base import MOST_STEPS
from mutransfer.errors import UsageError
from mutransfer.files import disk_errors, open_file, read_bytes, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

_SMOOTHING = 0.9
_MOST_METRICS = 10**10
_STRICT = json.JSONEncoder(allow_nan=False)


@dataclass
class Monitor:
    """The losses of one run, and whether it has diverged.

    A run has diverged when a loss is not finite, or when the smoothed loss exceeds `factor` times the first.
    """

    factor: float
    losses: list[float] = field(default_factory=list)
    smoothed: float | None = None
    diverged: bool = False

    def add(self, values: Sequence[float]) -> list[float]:
        """Judge the losses of the next steps; those up to a divergence are returned."""
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


class Pending:
    """Losses still on the device, (N,) a step for N runs, fetched every `interval` steps."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._losses: list[Tensor] = []

    @property
    def due(self) -> bool:
        """Whether enough steps are pending to fetch them."""
        return len(self._losses) >= self._interval

    def add(self, losses: Tensor) -> None:
        """Take the losses of the next step."""
        self._losses.append(losses)

    def fetch(self) -> list[list[float]]:
        """Bring what is pending to the host: a list of losses for each run."""
        if not self._losses:
            return []
        import torch  # here: a command's losses come without it

        values: list[list[float]] = torch.stack(self._losses, dim=1).tolist()
        self._losses.clear()
        return values


class MetricsFile:
    """`metrics.jsonl`: a line per step `{"step", "loss", "lr"}`, further lines for validations."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines: list[str] = []

    def add(self, record: dict[str, Any]) -> None:
        """Take one record; a number that is not finite becomes null, since JSON cannot express it."""
        if self._path is None:
            return
        try:
            line = _STRICT.encode(record)
        except ValueError:
            plain = {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in record.items()
            }
            line = json.dumps(plain)
        self._lines.append(line + "\n")

    def flush(self) -> None:
        """Append what was added to the file; raises `UsageError` if the disk refuses."""
        if self._path is None or not self._lines:
            return
        with disk_errors(self._path), open_file(self._path, "a", encoding="utf-8") as file:
            file.writelines(self._lines)
        self._lines.clear()

    def restart(self, steps: int) -> list[float]:
        """Drop records beyond the first `steps` steps, as after an interruption; the losses kept, in order.

        Raises `UsageError` if the file lacks some of those steps.
        """
        if self._path is None:
            return []
        if not steps:
            self._path.unlink(missing_ok=True)
            return []
        kept = [record for record in read_metrics(self._path) if record["step"] < steps]
        losses = [loss for record in kept if (loss := record.get("loss")) is not None]
        if len(losses) != steps:
            raise UsageError(
                f"{self._path}: has {len(losses)} of the {steps} steps before the checkpoint; remove the folder "
                "and train again"
            )
        write_atomic(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        return losses


class MetricsRecord(TypedDict, total=False):
    """A line of `metrics.jsonl`; further keys are numbers too."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)  # type: ignore[misc]

    step: Required[Annotated[int, Field(ge=0, le=MOST_STEPS)]]
    loss: float | None


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a metrics file; an incomplete last line, which a kill can leave, or a damaged one is skipped.

    Raises `UsageError` if the file cannot be read.
    """
    if not path.exists():
        return
    form = TypeAdapter(MetricsRecord)
    for line in read_bytes(path, most=_MOST_METRICS).splitlines():
        with suppress(ValidationError):
            yield dict(form.validate_json(line))
