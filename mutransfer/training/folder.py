"""The folder of one training run: the one place that knows the names of the files in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from mutransfer.config.base import MOST_STEPS
from mutransfer.files import read_json, write_json

Outcome = Literal["completed", "diverged", "pruned", "out_of_memory", "crashed", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """The figures of a run that has ended. Losses are in nats; None where there is none.

    `result.json`, a study's records, `trials.csv` and `mutransfer status --json` take their fields from here.
    """

    validation_loss: float | None = None
    training_loss: float | None = None
    """Mean over the last tenth of the steps."""
    steps: Annotated[int, Field(ge=0, le=MOST_STEPS)] = 0
    seconds: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    parameters: Annotated[int, Field(ge=0, le=2**63)] = 0
    """0 where the number is not known, as for a command."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics beside the loss, by name."""

    def figures(self) -> dict[str, Any]:
        """Every field of this class, by name."""
        return {name: getattr(self, name) for name in FIGURES}


FIGURES = tuple(one.name for one in fields(RunFigures))


@dataclass(frozen=True)
class TrainResult(RunFigures):
    """How a training run ended."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    outcome: Outcome

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
        """How the run ended, None when it has not; raises `UsageError` if the file is damaged."""
        if not self.result.exists():
            return None
        return read_json(self.result, TrainResult, advice="remove it and use --resume")
