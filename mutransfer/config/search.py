"""The `search:` section: what is swept, over which ranges, how often."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mutransfer.config.base import (
    MOST,
    MOST_TRIALS,
    Count,
    CountOrNone,
    Factor,
    Few,
    FieldProblem,
    SecondsOrZero,
    Section,
    Seed,
    Steps,
)
from mutransfer.config.pruner import GIVEN, PrunerSection, named_pruner
from mutransfer.errors import nearest
from mutransfer.shown import ENVIRONMENT, quoted

SpaceValue = float | str | None
Setting = int | float | str
NO_SECRETS = (
    "has a password or token in it, which the run folder would keep; write ${NAME} in its place and set the "
    "environment variable NAME"
)
_MOST_POWERS = 1000
LEAST_HANG_AFTER = 1.0
# Settings that `across` takes, and the power of each that the cost of a run grows with.
ACROSS: dict[str, int] = {
    "model.width": 2,
    "model.depth": 1,
    "data.seq_len": 1,
    "training.batch_size": 1,
    "training.steps": 1,
    "training.seed": 0,
    "parametrization": 0,
}


def _two_numbers(given: Any) -> Any:
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise ValueError(f"must be [low, high], but got {quoted(given)}")
    return given


def _plain(null: bool) -> Callable[[Any], Any]:
    what = "a number, text or null" if null else "a number or text"

    def check(given: Any) -> Any:
        if not isinstance(given, list | tuple) or not given:
            raise ValueError(f"must be a list of values, but got {quoted(given)}")
        for index, value in enumerate(given):
            if isinstance(value, bool) or not isinstance(value, int | float | str | (None if null else str)):
                raise FieldProblem((index,), f"must be {what}, but got {quoted(value)}")
            if isinstance(value, int | float) and not abs(value) <= MOST:
                raise FieldProblem((index,), f"must be between -{MOST:g} and {MOST:g}, but got {quoted(value)}")
        if len(set(given)) < len(given):
            raise ValueError(f"has a value twice: {quoted(list(given))}")
        return given

    return check


def _never(given: Any) -> Any:
    return 0.0 if given is None else given


def _long_enough(seconds: float) -> float:
    if 0 < seconds < LEAST_HANG_AFTER:
        raise ValueError(
            f"must be {LEAST_HANG_AFTER:g} (second) or more, as a step may take that long, or 0 to wait for ever, but "
            f"got {seconds:g}"
        )
    return seconds


def _storage_url(given: Any) -> Any:
    # The message does not repeat the URL: a password may stand where it is not looked for.
    if isinstance(given, str) and ENVIRONMENT.fullmatch(given):
        return given
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        found = make_url(given if isinstance(given, str) else "")
    except (ArgumentError, ValueError):
        raise ValueError("must be a storage URL, such as postgresql+psycopg://USER:${PASSWORD}@HOST/DATABASE") from None
    if found.password is not None and not ENVIRONMENT.fullmatch(found.password):
        raise ValueError(NO_SECRETS)
    return given


_Bound = Annotated[float, Field(ge=-MOST, le=MOST)]
Bounds = Annotated[tuple[_Bound, _Bound], Field(strict=False), BeforeValidator(_two_numbers)]
Values = Annotated[tuple[SpaceValue, ...], Field(strict=False), BeforeValidator(_plain(null=True))]

SettingList = Annotated[tuple[Setting, ...], Field(strict=False), BeforeValidator(_plain(null=False))]


class Powers(Section):
    """Values `scale · base^z` for z from `start` to `stop` in steps of `step`, both ends included."""

    scale: Factor = 1.0
    """Factor of every value."""
    base: Annotated[Factor, Field(gt=1)] = 2.0
    """Base of the power."""
    start: Annotated[float, Field(ge=-_MOST_POWERS, le=_MOST_POWERS)]
    """First exponent."""
    stop: Annotated[float, Field(ge=-_MOST_POWERS, le=_MOST_POWERS)]
    """Last exponent."""
    step: Factor = 1.0
    """Distance of two exponents."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.start > self.stop:
            raise FieldProblem(("start",), f"start <= stop must hold, but got start={self.start:g}, stop={self.stop:g}")
        if (self.stop - self.start) / self.step >= _MOST_POWERS:
            raise FieldProblem(("step",), f"gives more than {_MOST_POWERS} values")
        try:
            finite = all(map(math.isfinite, self.values))
        except OverflowError:
            finite = False
        if not finite:
            raise FieldProblem((), f"{self.base:g}^{self.stop:g} is beyond floating point")
        return self

    @property
    def values(self) -> tuple[float, ...]:
        """Every value, rising with the exponent."""
        count = math.floor((self.stop - self.start) / self.step + 1e-9) + 1
        return tuple(self.scale * self.base ** (self.start + index * self.step) for index in range(count))


class Distribution(Section):
    """How one hparam is drawn: exactly one of the four keys."""

    log_uniform: Bounds | None = None
    """`[low, high]`: uniform in the logarithm."""
    uniform: Bounds | None = None
    """`[low, high]`."""
    choice: Values | None = None
    """A list of values, each equally likely."""
    powers: Powers | None = None
    """`{scale, base, start, stop, step}`: the values scale·base^z, each equally likely."""

    @model_validator(mode="after")
    def _one_and_sound(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise FieldProblem(
                (), f"give exactly one of log_uniform, uniform, choice and powers, but got {given or 'none'}"
            )
        bounds = self.bounds
        if bounds is not None:
            low, high = bounds
            if low >= high:
                raise FieldProblem((given[0],), f"low < high must hold, but got low={low:g}, high={high:g}")
            if self.log_uniform is not None and low <= 0:
                raise FieldProblem((given[0],), f"a log range cannot touch zero, but got low={low:g}")
        return self

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The range of a continuous distribution, None of a discrete one."""
        return self.log_uniform or self.uniform

    @property
    def values(self) -> tuple[SpaceValue, ...] | None:
        """The values of a discrete distribution, None of a continuous one."""
        return self.powers.values if self.powers is not None else self.choice

    @property
    def extremes(self) -> tuple[SpaceValue, ...]:
        """Values that have to be valid for the whole distribution to be."""
        return self.bounds or self.values or ()


class Confirm(Section):
    """Which trials are trained again with further seeds before one of them is selected."""

    top: CountOrNone = 1
    """Number of best trials to repeat; 0 selects the winner from one run per trial. A trial that gives no result with a
    further seed cannot win, and the next best one takes its place."""
    seeds: Few = 2
    """Further seeds for each of them. With more than one trial, the best mean over seeds wins."""


class Stage(Section):
    """One horizon of a sweep in stages."""

    steps: Steps | None = None
    """Training steps, more than in the stage before. The last stage has `training.steps`, and need not say it."""
    keep: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the previous stage's trials, the best ones, that this stage trains. Every stage but the first needs
    it."""


class SearchSection(Section):
    """One sweep."""

    trials: Count | None = None
    """Number of trials. Default: 16, or the whole grid with sampler `grid`."""
    sampler: Literal["random", "quasi-random", "tpe", "grid"] = "random"
    """How hparams are drawn. Trial k is a function of (seed, k) for all but `tpe`, which learns."""
    seed: Seed = 0
    """Seed of the draw. Initial weights and batches have `training.seed`, the same for every trial."""
    objective: Literal["validation_loss", "training_loss"] = "validation_loss"
    """What is minimised at the end of a trial."""
    stages: Annotated[tuple[Stage, ...], Field(strict=False)] | None = None
    """`[{steps: 50}, {steps: 200, keep: 0.25}]`: every trial is trained for 50 steps, then the best quarter from
    scratch for 200, each with the whole schedule of its own horizon. The winner is one of the last stage's."""
    confirm: Confirm = Confirm()
    """`{top, seeds}`: the best trials are trained again with further seeds, and the best mean wins. Trials
    that the spread over seeds cannot tell from the best are called ties."""
    pruner: Annotated[PrunerSection | None, BeforeValidator(named_pruner, json_schema_input_type=GIVEN)] = None
    """`median`, `percentile`, `successive-halving`, `hyperband`, or a section with one as its `kind`, ends trials
    that fall behind. Needs `hparams.schedule: constant`: the unfinished curve of a decaying schedule says nothing."""
    retries: CountOrNone = 2
    """How often a trial is tried again after it crashed, or ran out of memory while it trained alone."""
    hang_after: Annotated[SecondsOrZero, BeforeValidator(_never), AfterValidator(_long_enough)] = 600.0
    """Seconds without a finished step after which a worker counts as hung. It is ended, and its trials count as
    crashed. Before a trial's first step (imports, data, compilation) the limit is three times as long, and at least 60
    s for a new worker. 0 waits for ever; values between 0 and 1 are refused."""
    threads: Few | None = None
    """CPU threads per worker. Without a GPU, the number of workers is the number of cores divided by it. Default: 1, or
    a larger number if a short measurement with this config shows that it is faster."""
    storage: Annotated[str, BeforeValidator(_storage_url)] | None = None
    """Any Optuna storage URL, such as `postgresql+psycopg://me:${DB_PASSWORD}@host/optuna`, to keep the study in a
    database. Default: `study.db` in the run folder. `${NAME}` is replaced by the environment variable NAME; this is the
    only way to give a password."""
    space: Annotated[dict[str, Distribution], Field(min_length=1)]
    """`{hparam: distribution}`."""
    across: dict[str, SettingList] | None = None
    """`{compute setting: values}`, such as `model.width: [64, 128]`: every point of the grid `space` is trained at
    every combination of them. Written by `mutransfer transfer-check`; such a sweep has no winner."""

    @model_validator(mode="after")
    def _across_fits(self) -> Self:
        if self.across is None:
            return self
        for name in self.across:
            if name not in ACROSS:
                hint = nearest(name, ACROSS, "the settings are")
                raise FieldProblem(("across", name), f"cannot be crossed with the grid; {hint}")
        if self.sampler != "grid":
            raise FieldProblem(("across",), f"needs sampler grid, but this is {self.sampler}")
        if self.trials is not None:
            raise FieldProblem(("trials",), "has no effect with across: every point is trained")
        if (self.grid_size or 0) > MOST_TRIALS:
            raise FieldProblem(("across",), f"gives more than {MOST_TRIALS} points")
        return self

    @model_validator(mode="after")
    def _stages_lengthen(self) -> Self:
        if self.stages is None:
            return self
        if self.across is not None:
            raise FieldProblem(("stages",), "is impossible with across, where every point is a result")
        if len(self.stages) < 2:
            raise FieldProblem(("stages",), "needs two stages or more; a single horizon is training.steps")
        for index, stage in enumerate(self.stages):
            if index == 0 and stage.keep is not None:
                raise FieldProblem(("stages", 0, "keep"), "has no effect: the first stage trains every trial")
            if index > 0 and stage.keep is None:
                raise FieldProblem(("stages", index, "keep"), "is required: the share of the trials that goes on")
            if stage.steps is None and index < len(self.stages) - 1:
                raise FieldProblem(("stages", index, "steps"), "is required; only the last stage may omit it")
            before = self.stages[index - 1].steps if index else None
            if before is not None and stage.steps is not None and stage.steps <= before:
                raise FieldProblem(
                    ("stages", index, "steps"), f"must be more than the stage before's {before}, but got {stage.steps}"
                )
        return self

    @model_validator(mode="after")
    def _pruner_fits(self) -> Self:
        for name in ("stages", "across"):
            if self.pruner is not None and getattr(self, name) is not None:
                raise FieldProblem(("pruner",), f"is impossible with {name}, where every run has to finish")
        return self

    @model_validator(mode="after")
    def _grid_is_finite(self) -> Self:
        if self.sampler == "grid":
            for name, distribution in self.space.items():
                if distribution.values is None:
                    raise FieldProblem(
                        ("space", name), "sampler grid needs choice or powers, but this is a continuous range"
                    )
        return self

    @property
    def grid_size(self) -> int | None:
        """Number of points when every hparam is discrete, `across` included."""
        sizes = [distribution.values for distribution in self.space.values()]
        if not all(sizes):
            return None
        return math.prod(len(values) for values in (*sizes, *(self.across or {}).values()) if values)

    def combinations(self) -> Iterator[dict[str, Setting]]:
        """Every combination of the settings in `across`; one empty one without."""
        across = self.across or {}
        for values in itertools.product(*across.values()):
            yield dict(zip(across, values, strict=True))

    @property
    def trial_count(self) -> int:
        """How many trials the sweep has in the end."""
        if self.sampler == "grid":
            size = self.grid_size or 0
            return size if self.trials is None else min(size, self.trials)
        return 16 if self.trials is None else self.trials
