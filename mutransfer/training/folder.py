"""The folder of one training run: the one place that knows the names of the files in it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mutransfer.errors import UsageError
from mutransfer.files import write_json

Outcome = Literal["completed", "diverged", "pruned", "out_of_memory", "crashed", "interrupted"]


@dataclass(frozen=True)
class TrainResult:
    """How a training run ended. Losses are in nats; None where there is none."""

    outcome: Outcome
    steps: int
    training_loss: float | None
    """Mean over the last tenth of the steps."""
    validation_loss: float | None
    seconds: float
    parameters: int
    metrics: dict[str, float] = field(default_factory=dict)
    """What was measured beside the loss, by name."""

    def objective(self, name: str) -> float | None:
        """`validation_loss` or `training_loss`, by name."""
        value: float | None = getattr(self, name)
        return value


class TrainFolder:
    """Files of one training run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.plan = root / "plan.json"
        self.metrics = root / "metrics.jsonl"
        self.checkpoints = root / "checkpoints"
        self.weights = root / "model.safetensors"
        self.pretrained = root / "pretrained"
        self.not_pretrained = root / "pretrained-not-written.txt"
        self.result = root / "result.json"
        self.lock = root / ".lock"

    def checkpoint(self, step: int) -> Path:
        """Checkpoint after `step` steps."""
        return self.checkpoints / f"step-{step:08d}.pt"

    def latest_checkpoint(self) -> Path | None:
        """The checkpoint of the most steps, if there is one."""
        return max(self.checkpoints.glob("step-*.pt"), default=None)

    @property
    def started(self) -> bool:
        """Whether a run has begun here."""
        return self.metrics.exists() or self.result.exists() or self.latest_checkpoint() is not None

    def write_result(self, result: TrainResult) -> None:
        """Save how the run ended."""
        write_json(self.result, asdict(result))

    def read_result(self) -> TrainResult | None:
        """How the run ended, None when it has not.

        Raises:
            UsageError: the file is damaged.
        """
        if not self.result.exists():
            return None
        try:
            data: dict[str, Any] = json.loads(self.result.read_text(encoding="utf-8"))
            return TrainResult(**data)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{self.result}: is damaged ({error}); remove it and use --resume") from None
