"""What a transfer check finds, as values. `transfer_words` turns them into sentences, `transfer_json` into JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from mutransfer.verification.optimum import Edge, Floats, Noise, Optimum, interaction_noise
from mutransfer.verification.transfer_grid import GridValue, TransferGrid
from mutransfer.verification.transfer_points import Point
from mutransfer.verification.wider import Comparison, WidthCurve

State = Literal["passed", "failed", "undecided"]
CheckState = State | Literal["no power"]


@dataclass(frozen=True)
class OneSeed:
    """There is one seed, so that the noise between seeds is unknown."""

    kind: ClassVar = "one seed"


@dataclass(frozen=True)
class NoValueTrains:
    """At this size every value diverged or gave no result."""

    kind: ClassVar = "no value trains"
    size: int


@dataclass(frozen=True)
class TooFewValues:
    """At this size fewer values gave a result than a fit needs."""

    kind: ClassVar = "too few values"
    size: int
    count: int


@dataclass(frozen=True)
class OptimumAtEdge:
    """The optimum of this size lies at an end of the grid, or may lie there."""

    kind: ClassVar = "optimum at edge"
    size: int
    edge: Edge
    certain: bool
    """Whether the lowest mean loss is at an end; if not, it is for some draws of the seeds."""
    low: GridValue
    """Smallest value of the grid."""
    high: GridValue


@dataclass(frozen=True)
class NoResult:
    """The largest size with the base's best value gave no result."""

    kind: ClassVar = "no result"
    size: int
    value: GridValue | None


@dataclass(frozen=True)
class DriftTooLarge:
    """The optimum moves by more octaves than allowed."""

    kind: ClassVar = "drift"
    octaves: float
    allowed: float


@dataclass(frozen=True)
class IntervalTooWide:
    """The drift is small, but its 95 % interval reaches beyond what is allowed."""

    kind: ClassVar = "interval"
    low: float
    high: float
    allowed: float


@dataclass(frozen=True)
class RegretTooLarge:
    """The largest size loses more than twice the standard error with the base's best value."""

    kind: ClassVar = "regret"
    size: int
    nats: float
    """Infinite where it diverged."""
    error: float | None


TransferReason = (
    OneSeed | NoValueTrains | TooFewValues | OptimumAtEdge | NoResult | DriftTooLarge | IntervalTooWide | RegretTooLarge
)


@dataclass(frozen=True)
class SizeResult:
    """One size in one parametrization."""

    size: int
    values: tuple[GridValue, ...]
    losses: Floats
    """(values, seeds): infinite where a run diverged, NaN where one gave no result."""
    optimum: Optimum | None
    """None of names, and where fewer than three values gave a result."""

    @property
    def mean(self) -> Floats:
        """Mean over seeds, (values,)."""
        found: Floats = self.losses.mean(axis=1)
        return found

    @property
    def best(self) -> int | None:
        """Index of the value with the lowest mean loss."""
        known = np.where(np.isnan(self.mean), np.inf, self.mean)
        return int(np.argmin(known)) if np.isfinite(known).any() else None

    @property
    def noise(self) -> Noise | None:
        """Seed noise around the best value; None where it cannot be told."""
        reach = len(self.values) if isinstance(self.values[0], str) else 2
        return None if self.best is None else interaction_noise(self.losses, self.best, reach=reach)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds of the loss at the best value."""
        if self.best is None or self.losses.shape[1] < 2:
            return None
        return float(self.losses[self.best].std(ddof=1))


@dataclass(frozen=True)
class TransferVerdict:
    """How one parametrization fares."""

    parametrization: str
    state: State
    reasons: tuple[TransferReason, ...]
    """Why it failed or is undecided; empty when it passed."""
    sizes: tuple[SizeResult, ...]
    transferred: GridValue | None
    """Best value at the base size, which transfer would use."""
    drift: float | None
    """Optimum of the largest size over that of the base, in octaves; None of names and where one is unknown."""
    drift_interval: tuple[float, float] | None
    largest_drift: float | None
    """Of all sizes, the drift farthest from zero."""
    drift_at_least: float | None
    """Where an optimum lies outside the grid: so many octaves at the least."""
    regret: float | None
    """Loss of the largest size with the base's best value, minus that with its own best; infinite if it diverged."""
    regret_error: float | None
    """Standard error of the regret."""
    curves: tuple[WidthCurve, ...]
    comparisons: tuple[Comparison, ...]
    widened: bool
    """Whether values count that no call named, because an optimum lay at an end of those named."""
    earlier: tuple[GridValue, ...]
    """Values that count although this call did not name them: those of earlier calls."""
    left_out: tuple[GridValue, ...]
    """Values of earlier calls that were not trained at every size with every seed of this one, and do not count."""

    @property
    def shows_drift(self) -> bool:
        """Whether something is known to move, be it by how much it may."""
        return self.state == "failed" or (
            self.regret is not None and self.regret_error is not None and self.regret > 2 * self.regret_error
        )


@dataclass(frozen=True)
class TransferCheck:
    """The whole check."""

    grid: TransferGrid
    tolerance: float
    """In octaves."""
    verdicts: Mapping[str, TransferVerdict]
    """The parametrization that is judged first, its control after it."""
    points: tuple[Point, ...]

    @property
    def judged(self) -> TransferVerdict:
        """The verdict that counts."""
        return self.verdicts[self.grid.parametrizations[0]]

    @property
    def control(self) -> TransferVerdict | None:
        """The control's."""
        return self.verdicts[self.grid.parametrizations[1]] if len(self.grid.parametrizations) > 1 else None

    @property
    def passed(self) -> bool:
        """Whether the hparam transfers, and the control, where one was run, does not."""
        return self.judged.state == "passed" and self.has_power is not False

    @property
    def has_power(self) -> bool | None:
        """Whether the control failed, so that the check can tell right from wrong; None without a control."""
        if self.control is None:
            return None
        at_least = self.control.drift_at_least
        return self.control.shows_drift or (at_least is not None and at_least > self.tolerance)

    @property
    def state(self) -> CheckState:
        """The outcome: that of the judged parametrization, or `no power` where it passed and its control did too."""
        return "no power" if self.judged.state == "passed" and not self.passed else self.judged.state
