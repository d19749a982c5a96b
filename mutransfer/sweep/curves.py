"""What a pruner saw of a trial."""

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
    """What Optuna's pruner keeps with the trial: its losses at rungs."""

    @property
    def last(self) -> float | None:
        """The loss at the last look: what Optuna takes for the value of a pruned trial. None where it is no number."""
        loss = self.looks[max(self.looks)] if self.looks else math.nan
        return None if math.isnan(loss) else loss
