"""The losses of a trial that a pruner has seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Curve:
    """The losses of one trial at the steps where it was looked at."""

    looks: dict[int, float] = field(default_factory=dict)
    """`{steps done: loss}`."""
    rungs: dict[str, Any] = field(default_factory=dict)
    """Values that Optuna's pruner stores with the trial: its losses at rungs."""

    @property
    def last(self) -> float | None:
        """The loss at the last look, which Optuna takes as the value of a pruned trial. None where it is NaN."""
        loss = self.looks[max(self.looks)] if self.looks else math.nan
        return None if math.isnan(loss) else loss
