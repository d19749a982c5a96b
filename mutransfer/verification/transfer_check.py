"""The transfer check: does the best value found at the base size stay the best as the model grows (TP-V Fig. 3, 4)?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product

import pandas as pd

from mutransfer.errors import UsageError
from mutransfer.executors.base import Executor
from mutransfer.files import write_atomic, write_json
from mutransfer.sweep.dispatcher import Observer
from mutransfer.verification import transfer_json
from mutransfer.verification.transfer_grid import Key, TransferGrid
from mutransfer.verification.transfer_judge import is_named, judge, size_results
from mutransfer.verification.transfer_points import CheckFolder, Point, train_points, whole_values
from mutransfer.verification.transfer_verdict import TransferCheck


def run_transfer_check(
    grid: TransferGrid,
    folder: CheckFolder,
    *,
    tolerance: float | None = None,
    executor: Callable[[], Executor] | None = None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TransferCheck:
    """Train the grid, widen it once where an optimum is at its edge, judge, write `verdict.json` and `points.csv`.

    What earlier calls trained in `folder` at the same sizes with the same seeds counts as if it were of the grid. A
    parametrization with an optimum at an edge is widened at all its sizes: the largest size has to be trained with the
    base's best value too, wherever that comes to lie.

    Args:
        tolerance: octaves by which the optimum may move; one step of the grid by default.

    Raises:
        UsageError: the tolerance is not a number >= 0; and see `train_points`.
        ConfigError, DataError, Interrupted, NothingUsable: see `train_points`.
    """
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise UsageError(f"--tolerance {tolerance:g}: must be a finite number of octaves >= 0")

    def train(wanted: set[Key], *, widening: bool = False) -> dict[Key, Point]:
        return train_points(
            grid, folder, wanted, widening=widening, executor=executor, observer=observer, should_stop=should_stop
        )

    points = train(grid.keys())
    further = _further(grid, points)
    if further:
        points = train(grid.keys() | further, widening=True)
    check = judge(grid, points, tolerance=tolerance)
    write_json(folder.verdict, transfer_json.as_dict(check))
    columns = ["parametrization", "size", "value", "seed", "outcome", "validation_loss", "training_loss"]
    rows = [{name: getattr(one, name) for name in columns} for one in check.points]
    write_atomic(folder.points, pd.DataFrame(rows, columns=columns).to_csv(index=False))
    return check


def _further(grid: TransferGrid, points: Mapping[Key, Point]) -> set[Key]:
    """Points beyond the ends at which optima lie; a function of the values that calls named, so that a resumed or
    repeated check widens as the first one did."""
    found: set[Key] = set()
    if not grid.numeric:
        return found
    for name in grid.parametrizations:
        named = [value for value in whole_values(grid, points, name) if is_named(grid, points, name, value)]
        edges = {one.optimum.edge for one in size_results(grid, points, name, named) if one.optimum is not None}
        values = grid.widened(named, lower=bool(edges & {"lower", "both"}), upper=bool(edges & {"upper", "both"}))
        found |= set(product([name], grid.sizes, grid.seeds, values))
    return found
