"""Learning-rate schedules as a factor of the peak: a function of (step, steps), with no state to resume."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

from mutransfer.config.hparams import Hparams, ScheduleName


@dataclass(frozen=True)
class Schedule:
    """The course of lr over a run of `steps` steps.

    lr rises linearly over the first round(warmup · steps) steps, reaching the peak on the last of them, and then
    follows the shape:

        constant        1
        linear          from 1 to final_lr
        cosine          half a cosine from 1 to final_lr
        inverse_sqrt    √(warmup steps / step), as in the original Transformer
        step            step_factor for each milestone that has passed, milestones being shares of the run
    """

    shape: ScheduleName
    steps: int
    warmup: float
    final_lr: float | None
    milestones: tuple[float, ...] | None
    step_factor: float | None

    @classmethod
    def of(cls, hparams: Hparams, steps: int) -> Self:
        """The schedule of a run; those of hparams that agree in it are equal."""
        optional: dict[str, Any] = {name: hparams.resolved(name) for name in ("final_lr", "milestones", "step_factor")}
        return cls(shape=hparams.schedule, steps=steps, warmup=hparams.warmup, **optional)

    def factor(self, step: int) -> float:
        """Factor on every group's peak lr at `step` (from 0)."""
        warmup = round(self.warmup * self.steps)
        if step < warmup:
            return (step + 1) / warmup
        if self.shape == "constant":
            return 1.0
        if self.shape == "inverse_sqrt":
            return math.sqrt(max(1, warmup) / (step + 1))
        if self.step_factor is not None and self.milestones is not None:
            return self.step_factor ** sum(step >= milestone * self.steps for milestone in self.milestones)
        progress = (step - warmup) / max(1, self.steps - warmup)
        final = self.final_lr or 0.0
        if self.shape == "linear":
            return 1.0 - (1.0 - final) * progress
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
