"""The points of a transfer check: trained through the sweep's machinery, and kept.

A check's folder holds rounds, each a sweep across compute settings. What a round has is not trained again: the same
command continues, and one with more sizes, values or seeds adds to what is there. A verdict is on all values that
stand in the folder at the sizes and with the seeds asked for, whichever call trained them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from mutransfer.config.load import differences, load_config, save_config
from mutransfer.config.schema import RunConfig
from mutransfer.data import load_data
from mutransfer.errors import UsageError
from mutransfer.executors.base import Executor
from mutransfer.sweep.coordinator import run_points
from mutransfer.sweep.dispatcher import Observer
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.record import TrialRecord
from mutransfer.sweep.space import point
from mutransfer.sweep.study import Study
from mutransfer.training.folder import Outcome
from mutransfer.training.trainers import trainer_of
from mutransfer.verification.transfer_grid import AXES, GridValue, Key, TransferGrid

_WIDENING = "-widening"
"""End of the name of a round that no call asked for, but an optimum at an end of the values."""


@dataclass(frozen=True)
class Point:
    """One run of a check."""

    parametrization: str
    size: int
    seed: int
    value: GridValue
    outcome: Outcome | None
    validation_loss: float | None
    training_loss: float | None
    folder: Path
    """Where its `metrics.jsonl` is."""
    asked: bool = True
    """Whether a call named its value; otherwise it was trained because an optimum lay at an end of the values."""

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

    def next_round(self, *, widening: bool = False) -> SweepFolder:
        """The folder of a further round."""
        return SweepFolder(self.rounds / f"{len(self.all_rounds()) + 1:03d}{_WIDENING if widening else ''}")


def train_points(
    grid: TransferGrid,
    folder: CheckFolder,
    wanted: set[Key],
    *,
    widening: bool = False,
    executor: Callable[[], Executor] | None = None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[Key, Point]:
    """Train the points among `wanted` that `folder` lacks.

    Args:
        widening: no call asked for what `wanted` has and the folder lacks.

    Returns:
        All points that the folder then has of the grid's parametrizations, sizes and seeds: those of `wanted`, and
        what earlier calls trained at other values.

    Raises:
        UsageError: the folder holds points of another config or of other data, is in use, or cannot be written.
        ConfigError: points make no possible run.
        DataError: the data cannot be used.
        Interrupted: `should_stop` was true; the same call continues.
        NothingUsable: every point crashed.
    """

    def run(config: RunConfig, place: SweepFolder) -> None:
        run_points(config, place, executor=executor, observer=observer, should_stop=should_stop)

    begun = folder.config.exists()
    if not begun:
        _require_trainable(grid, folder.root)
    lock = SweepFolder(folder.root)
    with lock.sole_coordinator():
        _require_same_config(grid, folder)
        if begun and grid.axis == "seq-len" and wanted - known_points(grid, folder).keys():
            _require_trainable(grid, folder.root)  # the largest size may be a new one
        for place in folder.all_rounds():
            lacking = set(_lacking(grid, place))
            if lacking and lacking <= wanted:
                run(load_config(place.config), place)
        missing = wanted - known_points(grid, folder).keys()
        for part in _products(missing):
            run(grid.round(*part), folder.next_round(widening=widening))
        found = known_points(grid, folder)
    places = set(product(grid.parametrizations, grid.sizes, grid.seeds))
    return {key: found[key] for key in sorted(found, key=str) if key[:3] in places}


def _require_trainable(grid: TransferGrid, root: Path) -> None:
    """Refuse data that cannot be used, at the largest size too, and trials that cannot work.

    The check's folder has not been made yet.
    """
    if grid.config.trainer.project_data:
        load_data(grid.config.at_point({AXES[grid.axis]: grid.sizes[-1]}).data)
    trainer_of(grid.config).require_trials(grid.config, root)


def whole_values(grid: TransferGrid, points: Mapping[Key, Point], parametrization: str) -> tuple[GridValue, ...]:
    """Values, rising, that `points` have at every size of the grid with every seed; others do not compare."""
    return tuple(
        value
        for value in sorted({key[3] for key in points if key[0] == parametrization}, key=grid.values_order)
        if all((parametrization, size, seed, value) in points for size, seed in product(grid.sizes, grid.seeds))
    )


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
        place.trial(record.number), not place.root.name.endswith(_WIDENING),
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
    for place in folder.all_rounds():
        search = load_config(place.config).require_search()
        axes = [axis for axis, field in AXES.items() if field in (search.across or {})]
        if (axes, list(search.space)) != ([grid.axis], [grid.hparam]):
            raise UsageError(
                f"{folder.root}: holds the check of {', '.join(search.space)} over {', '.join(axes)}; give this one, "
                f"of {grid.hparam} over {grid.axis}, another --out"
            )
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


Part = tuple[set[str], set[int], set[int], set[GridValue]]


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
