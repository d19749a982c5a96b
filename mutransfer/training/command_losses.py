"""The losses in the output of a command, read while it runs. Imports no torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutransfer.config.models.command import LossFrom
from mutransfer.files import open_file

_LONGEST_LINE = 1 << 20


@dataclass
class Tail:
    """New whole lines of a file that another process writes."""

    path: Path
    offset: int = 0
    _rest: bytes = b""

    def lines(self, *, ended: bool = False) -> list[str]:
        """Lines that have come since the last call.

        Args:
            ended: the writer is gone, so that a last line without its newline counts too.
        """
        try:
            with open_file(self.path, "rb") as file:
                size = file.seek(0, 2)
                if size < self.offset:  # the file was replaced
                    self.offset, self._rest = 0, b""
                file.seek(self.offset)
                new = file.read()
        except OSError:
            new = b""
        self.offset += len(new)
        *whole, self._rest = re.split(rb"[\r\n]+", self._rest + new)  # \r: progress bars
        if ended or len(self._rest) > _LONGEST_LINE:
            whole, self._rest = [*whole, self._rest], b""
        return [line.decode(errors="replace") for line in whole if line]


@dataclass
class Reading:
    """The losses read so far, and whether the run has diverged."""

    factor: float
    """The run has diverged when a loss exceeds the first one times this factor."""
    takes: str = "last"
    first: float | None = None
    value: float | None = None
    """The run's loss, None before the first."""
    step: int | None = None
    diverged: bool = False
    records: list[dict[str, Any]] = field(default_factory=list)
    """For `metrics.jsonl`, not yet written."""

    def add(self, loss: float, step: int | None) -> None:
        """Take the next loss."""
        self.step = step if step is not None else self.step
        self.records.append({"step": (self.step or 0), "validation_loss": loss})
        self.first = loss if self.first is None else self.first
        if not math.isfinite(loss) or loss > self.factor * abs(self.first):
            self.diverged = True
        if self.value is None or self.takes == "last" or loss < self.value:
            self.value = loss


def find(line: str, how: LossFrom) -> Iterator[tuple[float, int | None]]:
    """(loss, step) of every loss in a line."""
    if how.regex is None:
        yield from _in_json(line, (how.field or "val_loss"), (how.step_field or "step"))
        return
    pattern = re.compile(how.regex)
    for match in pattern.finditer(line):
        loss = _number(match["loss"] if "loss" in pattern.groupindex else match[1])
        if loss is not None:
            yield loss, _step(match["step"] if "step" in pattern.groupindex else None)


def _in_json(line: str, name: str, step_name: str) -> Iterator[tuple[float, int | None]]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return
    if not isinstance(record, dict):
        return
    loss = _number(_look_up(record, name))
    if loss is not None:
        yield loss, _step(_look_up(record, step_name))


def _look_up(record: dict[str, Any], name: str) -> Any:
    """The value of a key, or of one inside objects where dots say so."""
    if name in record:
        return record[name]
    found: Any = record
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _step(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and math.isfinite(number) else None
