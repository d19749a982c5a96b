"""The points of a transfer check: (parametrization × size × seed × value), trained through the sweep's machinery.

A check's folder holds rounds, each a sweep across compute settings. What a round has is not trained again: the same
command continues, and one with more sizes, values or seeds adds to what is there.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mutransfer.config.base import SEEDS
from mutransfer.config.hparams import SCHEDULE_FIELDS, UNSWEEPABLE, Hparams
from mutransfer.config.load import differences, first_problem, load_config, save_config, validate
from mutransfer.config.schema import RunConfig
from mutransfer.config.source import Source
from mutransfer.data import load_data
from mutransfer.errors import ConfigError, UsageError
from mutransfer.executors.base import Executor
from mutransfer.models import plan_of
from mutransfer.sweep.coordinator import run_points
from mutransfer.sweep.dispatcher import Observer
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.space import point
from mutransfer.sweep.study import Study, TrialRecord
from mutransfer.training.folder import Outcome
from mutransfer.transfer.cost import estimate

AXES = {
    "width": "model.width",
    "depth": "model.depth",
    "batch-size": "training.batch_size",
    "seq-len": "data.seq_len",
}
Value = float | str
Key = tuple[str, int, int, Value]
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
    values: tuple[Value, ...]
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
        self, parametrizations: Iterable[str], sizes: Iterable[int], seeds: Iterable[int], values: Iterable[Value]
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
        source = Source("--sizes, --values", {**self.config.resolved(), "search": search})
        source.overridden[("search", "space", self.hparam)] = f"--hparam {self.hparam}"
        return validate(source)

    @staticmethod
    def values_order(value: Value) -> tuple[bool, Value]:
        """Numbers by size, names by the alphabet."""
        return isinstance(value, str), value

    def widened(self, lower: bool, upper: bool) -> tuple[Value, ...]:
        """Further values beyond the ends, two octaves and at least two of them, that the hparam can have."""
        numbers = [value for value in self.values if not isinstance(value, str)]
        count = max(2, round(2 / self.step))
        further = [min(numbers) * 2.0 ** (-self.step * k) for k in range(count, 0, -1)] if lower else []
        further += [max(numbers) * 2.0 ** (self.step * k) for k in range(1, count + 1)] if upper else []
        return tuple(value for value in further if self._possible(value))

    def _possible(self, value: Value) -> bool:
        try:
            self.config.at_point({self.hparam: value})
        except ValueError:
            return False
        return True


@dataclass(frozen=True)
class Point:
    """One run of a check."""

    parametrization: str
    size: int
    seed: int
    value: Value
    outcome: Outcome | None
    validation_loss: float | None
    training_loss: float | None
    folder: Path
    """Where its `metrics.jsonl` is."""

    @property
    def key(self) -> Key:
        """What tells it from the others."""
        return self.parametrization, self.size, self.seed, self.value

    def loss(self, objective: str) -> float:
        """The loss compared: infinite where the run diverged, NaN where it gave no result."""
        if self.outcome == "diverged":
            return math.inf
        value: float | None = getattr(self, objective) if self.outcome == "completed" else None
        return math.nan if value is None else value


class CheckFolder:
    """Files of one transfer check."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.rounds = root / "rounds"
        self.verdict = root / "verdict.json"
        self.points = root / "points.csv"
        self.figure = root / "transfer-check"

    def all_rounds(self) -> list[SweepFolder]:
        """Rounds begun so far, oldest first."""
        return [SweepFolder(path) for path in sorted(self.rounds.glob("[0-9]*")) if (path / "config.yaml").exists()]

    def next_round(self) -> SweepFolder:
        """The folder of a further round."""
        return SweepFolder(self.rounds / f"{len(self.all_rounds()) + 1:03d}")


def train_points(
    grid: TransferGrid,
    folder: CheckFolder,
    wanted: set[Key],
    *,
    executor: Callable[[], Executor] | None = None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[Key, Point]:
    """Train the points among `wanted` that `folder` lacks; all of them.

    Raises:
        UsageError: the folder holds points of another config or of other data, is in use, or cannot be written.
        ConfigError: points make no possible run.
        DataError: the data cannot be used.
        Interrupted: `should_stop` was true; the same call continues.
        NothingUsable: every point crashed.
    """

    def run(config: RunConfig, place: SweepFolder) -> None:
        run_points(config, place, executor=executor, observer=observer, should_stop=should_stop)

    if not folder.config.exists() and not grid.config.model.external:
        _require_data(grid)
    lock = SweepFolder(folder.root)
    with lock.sole_coordinator():
        _require_same_config(grid, folder)
        for place in folder.all_rounds():
            lacking = set(_lacking(grid, place))
            if lacking and lacking <= wanted:
                run(load_config(place.config), place)
        missing = wanted - known_points(grid, folder).keys()
        for part in _products(missing):
            run(grid.round(*part), folder.next_round())
        found = known_points(grid, folder)
    return {key: found[key] for key in sorted(wanted, key=str)}


def _require_data(grid: TransferGrid) -> None:
    """Refuse data that cannot be used, at the largest size too, before the check's folder is made."""
    from mutransfer.training.tryout import try_out  # imports torch, which a coordinator otherwise does without

    load_data(grid.config.at_point({AXES[grid.axis]: grid.sizes[-1]}).data)
    try_out(grid.config)


def known_points(grid: TransferGrid, folder: CheckFolder) -> dict[Key, Point]:
    """Every point of the folder that has ended.

    Raises:
        UsageError: files are damaged, or rounds were trained on different data.
    """
    found: dict[Key, Point] = {}
    data: set[Any] = set()
    for place in folder.all_rounds():
        if not place.exists:
            continue
        study = Study(place.study, None)
        data.add(study.attributes.get("data"))
        for record in study.records():
            if record.outcome is not None:
                one = _point(grid, place, record)
                found.setdefault(one.key, one)
    if len(data) > 1:
        raise UsageError(
            f"{folder.root}: the data changed between its rounds, so points do not compare; use another --out"
        )
    return found


def _point(grid: TransferGrid, place: SweepFolder, record: TrialRecord) -> Point:
    parametrization, size, seed, value = _key(grid, record.params)
    return Point(
        parametrization, size, seed, value, record.outcome, record.validation_loss, record.training_loss,
        place.trial(record.number),
    )  # fmt: skip


def _key(grid: TransferGrid, params: dict[str, Any]) -> Key:
    return params["parametrization"], params[AXES[grid.axis]], params["training.seed"], params[grid.hparam]


def _lacking(grid: TransferGrid, place: SweepFolder) -> Iterator[Key]:
    """Points that a round was to train and has not."""
    search = load_config(place.config).require_search()
    done = set()
    if place.exists:
        done = {record.number for record in Study(place.study, None).records() if record.outcome is not None}
    for number in range(search.trial_count):
        if number not in done:
            yield _key(grid, point(search, number))


def _require_same_config(grid: TransferGrid, folder: CheckFolder) -> None:
    """Points of one folder differ in what the grid goes over and in nothing else."""
    config = grid.config.model_copy(update={"search": None})
    if folder.config.exists():
        free = (AXES[grid.axis], "training.seed", "parametrization", f"hparams.{grid.hparam}", "name", "provenance")
        changed = differences(load_config(folder.config), config, ignore=free)
        if changed:
            raise UsageError(
                f"{folder.root}: holds the check of another config; give this one another --out. It differs in\n  "
                + "\n  ".join(changed)
            )
        return
    save_config(config, folder.config, heading="What mutransfer transfer-check was asked to check.")


Part = tuple[set[str], set[int], set[int], set[Value]]


def _products(missing: set[Key]) -> list[Part]:
    """`missing` as few full grids: one when it is a grid itself, else one per parametrization, else per size."""
    for split in (lambda key: (), lambda key: key[:1], lambda key: key[:2], lambda key: key[:3]):
        groups: dict[tuple[Any, ...], set[Key]] = {}
        for key in sorted(missing, key=str):
            groups.setdefault(split(key), set()).add(key)
        parts: list[Part] = [
            ({k[0] for k in group}, {k[1] for k in group}, {k[2] for k in group}, {k[3] for k in group})
            for group in groups.values()
        ]
        if sum(len(a) * len(b) * len(c) * len(d) for a, b, c, d in parts) == len(missing):
            return parts
    raise AssertionError("the values of one parametrization, size and seed are a grid")


def _require_once(option: str, values: Sequence[Value]) -> None:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise UsageError(f"{option}: has {', '.join(twice)} twice")


def make_grid(
    config: RunConfig,
    *,
    axis: str = "width",
    sizes: Iterable[int] | None = None,
    hparam: str = "lr",
    values: Iterable[Value] | None = None,
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
    _require_sweepable(hparam)
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


def _require_sweepable(hparam: str) -> None:
    """Refuse what is no hparam, or none that a grid can go over."""
    known = [name for name in Hparams.model_fields if name not in UNSWEEPABLE]
    if hparam in known:
        return
    if hparam in UNSWEEPABLE:
        why = f"cannot be checked: {UNSWEEPABLE[hparam]}"
    else:
        near = difflib.get_close_matches(hparam, known, n=1)
        why = f"is no hparam{f'; did you mean {near[0]}?' if near else ''}"
    raise UsageError(f"--hparam {hparam}: {why}{';' if '?' not in why else ''} choose among {', '.join(known)}")


def _require_possible(config: RunConfig, name: str, value: Value, label: str) -> None:
    """Refuse a value that makes no possible run."""
    try:
        config.at_point({name: value})
    except ValidationError as error:
        raise ConfigError(f"{label}: {first_problem(error)}") from None


def _default_values(config: RunConfig, hparam: str) -> tuple[Value, ...]:
    if hparam == "schedule":
        return tuple(SCHEDULE_FIELDS)
    value = config.hparams.resolved(hparam)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UsageError(
            f"--hparam {hparam}: the config's value is {value}, so there is no default grid; give --values"
        )
    return tuple(value * 2.0**octave for octave in range(-3, 4))


def flops_by_size(grid: TransferGrid) -> dict[int, int]:
    """FLOPs of one run at each size; none of a command."""
    found: dict[int, int] = {}
    if grid.config.model.external:
        return found
    for size in grid.sizes:
        config = grid.config.at_point({AXES[grid.axis]: size})
        found[size] = estimate(config, plan_of(config)).training_flops
    return found
