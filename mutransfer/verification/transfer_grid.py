"""What a transfer check trains: (parametrization × size × seed × value), with all that can be refused refused."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from pydantic import ValidationError

from mutransfer.config.base import SEEDS
from mutransfer.config.hparams import SCHEDULE_FIELDS, UNSWEEPABLE, Hparams
from mutransfer.config.load import first_problem, validate
from mutransfer.config.schema import RunConfig
from mutransfer.config.source import ConfigSource
from mutransfer.errors import ConfigError, UsageError
from mutransfer.models import plan_of
from mutransfer.transfer.cost import estimate

AXES = {
    "width": "model.width",
    "depth": "model.depth",
    "batch-size": "training.batch_size",
    "seq-len": "data.seq_len",
}
GridValue = float | str
Key = tuple[str, int, int, GridValue]
"""(parametrization, size, seed, value)."""


@dataclass(frozen=True)
class TransferGrid:
    """What is to be trained."""

    config: RunConfig
    """The run whose hparams are checked; its own values of what the grid goes over do not matter."""
    axis: str
    """A key of `AXES`."""
    sizes: tuple[int, ...]
    """Rising; the first is the base that the others are compared with."""
    hparam: str
    values: tuple[GridValue, ...]
    """Rising numbers, or names."""
    seeds: tuple[int, ...]
    parametrizations: tuple[str, ...]
    """The one that is judged, and its control."""

    @property
    def numeric(self) -> bool:
        """Whether values have a distance, and so an optimum between them."""
        return not any(isinstance(value, str) for value in self.values)

    @property
    def objective(self) -> str:
        """Which loss is compared."""
        return self.config.search.objective if self.config.search else "validation_loss"

    @property
    def step(self) -> float:
        """Octaves between the two nearest values; 0 of names."""
        octaves = sorted(math.log2(value) for value in self.values if not isinstance(value, str))
        steps = [after - before for before, after in pairwise(octaves)]
        return min(steps) if self.numeric and steps else 0.0

    def keys(self) -> set[Key]:
        """Every point."""
        return set(product(self.parametrizations, self.sizes, self.seeds, self.values))

    def round(
        self, parametrizations: Iterable[str], sizes: Iterable[int], seeds: Iterable[int], values: Iterable[GridValue]
    ) -> RunConfig:
        """The config of a sweep over these points.

        Raises:
            ConfigError: they make no possible run.
        """
        given = self.config.search
        kept = (
            {} if given is None else given.model_dump(include={"objective", "retries", "hang_after", "threads", "seed"})
        )
        search = {
            **kept,
            "sampler": "grid",
            "confirm": {"top": 0},
            "space": {self.hparam: {"choice": sorted(values, key=self.values_order)}},
            "across": {
                AXES[self.axis]: sorted(sizes),
                "training.seed": sorted(seeds),
                "parametrization": [name for name in self.parametrizations if name in set(parametrizations)],
            },
        }
        source = ConfigSource("--sizes, --values", {**self.config.resolved(), "search": search})
        source.overridden[("search", "space", self.hparam)] = f"--hparam {self.hparam}"
        return validate(source)

    @staticmethod
    def values_order(value: GridValue) -> tuple[bool, GridValue]:
        """Numbers by size, names by the alphabet."""
        return isinstance(value, str), value

    def widened(self, values: Iterable[GridValue], *, lower: bool, upper: bool) -> tuple[GridValue, ...]:
        """Values beyond the ends of `values`, two octaves and at least two of them, that the hparam can have."""
        numbers = [value for value in values if not isinstance(value, str)]
        count = max(2, round(2 / self.step))
        further = [min(numbers) * 2.0 ** (-self.step * k) for k in range(count, 0, -1)] if lower else []
        further += [max(numbers) * 2.0 ** (self.step * k) for k in range(1, count + 1)] if upper else []
        return tuple(value for value in further if self._possible(value))

    def _possible(self, value: GridValue) -> bool:
        try:
            self.config.at_point({self.hparam: value})
        except ValueError:
            return False
        return True


def _require_once(option: str, values: Sequence[GridValue]) -> None:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise UsageError(f"{option}: has {', '.join(twice)} twice")


def make_grid(
    config: RunConfig,
    *,
    axis: str = "width",
    sizes: Iterable[int] | None = None,
    hparam: str = "lr",
    values: Iterable[GridValue] | None = None,
    seeds: int = 2,
    control: bool = True,
) -> TransferGrid:
    """The grid of a check, with everything that can be refused refused.

    Args:
        sizes: the smallest is the base; by default the base width, or what the config has, × 1, 2, 4, 8.
        values: of `hparam`; by default the config's × 2^-3 … 2^3, or every schedule.
        seeds: how many, counted up from the config's.
        control: add `sp`, unless that is what the config has, or a command that is never told the parametrization.

    Raises:
        UsageError: too few sizes or values, or no default for them.
        ConfigError: a point makes no possible run.
    """
    section, field = AXES[axis].split(".")
    if field not in getattr(config, section).model_dump():
        raise UsageError(f"--axis {axis}: {section} kind {getattr(config, section).kind} has no {field}")
    start = config.model.base_width if axis == "width" else getattr(getattr(config, section), field)
    grown = tuple(sorted(sizes or (start * factor for factor in (1, 2, 4, 8))))
    _require_once("--sizes", grown)
    if len(grown) < 2:
        raise UsageError(f"--sizes {grown[0]}: give two sizes or more")
    for size in grown:
        _require_possible(config, AXES[axis], size, f"--sizes {size}")
    _require_live(config, hparam)
    chosen = _default_values(config, hparam) if values is None else tuple(values)
    _require_once("--values", chosen)
    ordered = tuple(sorted(chosen, key=TransferGrid.values_order))
    names = [value for value in ordered if isinstance(value, str)]
    if not names and len(ordered) < 3:
        raise UsageError(f"--values of {hparam}: an optimum needs three values or more, but got {len(ordered)}")
    if not names and min(value for value in ordered if not isinstance(value, str)) <= 0:
        raise UsageError(f"--values of {hparam}: must be > 0, the optimum is looked for on a log scale")
    if len(ordered) < 2:
        raise UsageError(f"--values of {hparam}: give two names or more")
    for value in ordered:
        _require_possible(config, hparam, value, f"--values {value if isinstance(value, str) else f'{value:g}'}")
    judged = config.parametrization
    parametrizations = (judged, "sp") if control and judged != "sp" and config.model.has_control else (judged,)
    trained = tuple((config.training.seed + k) % SEEDS for k in range(seeds))
    grid = TransferGrid(config, axis, grown, hparam, ordered, trained, parametrizations)
    grid.round(parametrizations, grown, trained, ordered)
    return grid


def _require_live(config: RunConfig, hparam: str) -> None:
    """Refuse a name that is not an hparam, cannot be varied in a grid, or has no effect in this run."""
    dead = {name: f"has no effect: {why}" for name, why in config.model.dead_hparams().items()}
    dead |= config.hparams.dead
    known = [name for name in Hparams.model_fields if name not in UNSWEEPABLE and name not in dead]
    if hparam in known:
        return
    if hparam in UNSWEEPABLE:
        why = f"cannot be checked: {UNSWEEPABLE[hparam]}"
    elif hparam in dead:
        why = dead[hparam]
    else:
        near = difflib.get_close_matches(hparam, known, n=1)
        why = f"is not an hparam{f'; did you mean {near[0]}?' if near else ''}"
    raise UsageError(f"--hparam {hparam}: {why}{';' if '?' not in why else ''} choose among {', '.join(known)}")


def _require_possible(config: RunConfig, name: str, value: GridValue, label: str) -> None:
    """Refuse a value that makes no possible run."""
    try:
        config.at_point({name: value})
    except ValidationError as error:
        raise ConfigError(f"{label}: {first_problem(error)}") from None


def _default_values(config: RunConfig, hparam: str) -> tuple[GridValue, ...]:
    if hparam == "schedule":
        return tuple(SCHEDULE_FIELDS)
    value = config.hparams.resolved(hparam)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UsageError(
            f"--hparam {hparam}: the config's value is {value}, so there is no default grid; give --values"
        )
    return tuple(value * 2.0**octave for octave in range(-3, 4))


def flops_by_size(grid: TransferGrid) -> dict[int, int]:
    """FLOPs of one run at each size; empty where the model cannot be built here."""
    if not grid.config.trainer.inspectable:
        return {}
    configs = {size: grid.config.at_point({AXES[grid.axis]: size}) for size in grid.sizes}
    return {size: estimate(config, plan_of(config)).training_flops for size, config in configs.items()}
