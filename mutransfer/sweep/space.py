"""The search space: which point is trial k, and where the edges are. Imports no torch.

Trial k's hparams are a function of (search seed, k), so that a sweep interrupted, resumed, or spread over more
workers tries the same points.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mutransfer.config.search import ACROSS, Distribution, SearchSection

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# A winner this close to the end of its range (in the space it is drawn from) may have its optimum outside.
EDGE = 0.05


def point(search: SearchSection, number: int) -> dict[str, Any]:
    """Hparams of trial `number` (from 0), and its compute settings where the search goes across some.

    Raises:
        ValueError: the sampler is `tpe`, whose points depend on what came before.
    """
    if search.sampler == "tpe":
        raise ValueError("tpe has no fixed points")
    if search.sampler == "grid":
        return _grid_point(search, number)
    units = _units(search, number)
    return {name: at_unit(distribution, units[name]) for name, distribution in search.space.items()}


def at_unit(distribution: Distribution, unit: float) -> Any:
    """The value at share `unit` in [0, 1) of a distribution."""
    if distribution.log_uniform is not None:
        low, high = distribution.log_uniform
        return float(min(high, max(low, low * (high / low) ** unit)))
    if distribution.uniform is not None:
        low, high = distribution.uniform
        return float(low + (high - low) * unit)
    values = distribution.values or ()
    return values[int(unit * len(values))]


def optuna_distributions(search: SearchSection) -> dict[str, BaseDistribution]:
    """The space as Optuna distributions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    found: dict[str, BaseDistribution] = {}
    for name, distribution in sorted(search.space.items()):
        if distribution.bounds is not None:
            low, high = distribution.bounds
            found[name] = FloatDistribution(low, high, log=distribution.log_uniform is not None)
        else:
            found[name] = CategoricalDistribution(distribution.values or ())
    for name, values in sorted((search.across or {}).items()):
        found[name] = CategoricalDistribution(values)
    return found


def edge(distribution: Distribution, value: Any) -> str | None:
    """`lower` or `upper` where `value` lies at that end of its range, else None.

    Continuous ranges have an edge of 5 % of their (log) length; of three or more numbers to choose from the
    smallest and the largest are edges; names have none.
    """
    if distribution.bounds is not None:
        low, high = distribution.bounds
        if distribution.log_uniform is not None:
            share = float(np.log(value / low) / np.log(high / low))
        else:
            share = (value - low) / (high - low)
        return "lower" if share < EDGE else "upper" if share > 1 - EDGE else None
    numbers = [v for v in distribution.values or () if isinstance(v, int | float)]
    if len(numbers) < 3 or not isinstance(value, int | float):
        return None
    return "lower" if value == min(numbers) else "upper" if value == max(numbers) else None


def _units(search: SearchSection, number: int) -> Mapping[str, float]:
    """One share in [0, 1) per hparam."""
    if search.sampler == "quasi-random":
        from torch.quasirandom import SobolEngine

        engine: Any = SobolEngine(len(search.space), scramble=True, seed=search.seed)  # type: ignore[no-untyped-call]
        row = engine.fast_forward(number).draw(1)[0].double().tolist()
        return dict(zip(sorted(search.space), (min(unit, 1 - 1e-9) for unit in row), strict=True))
    # A stream per name: adding an hparam to the space leaves the draws of the others as they are.
    return {
        name: float(np.random.default_rng([search.seed, number, zlib.crc32(name.encode())]).random())
        for name in search.space
    }


def _grid_point(search: SearchSection, number: int) -> dict[str, Any]:
    """Point `number` of the grid in an order shuffled by the seed, so that a part of the grid is a sample of it.

    Across compute settings the costliest points come first: a long run that starts last would keep one worker
    busy while the others wait.
    """
    size = search.grid_size or 0  # SearchSection refuses grids of continuous ranges
    # By name, whatever order the file has them in.
    axes: list[tuple[str, tuple[Any, ...]]] = [(name, search.space[name].values or ()) for name in sorted(search.space)]
    axes += sorted((search.across or {}).items())
    order = np.random.default_rng(search.seed).permutation(size)
    cost, rest = np.ones(size), order
    for name, values in axes:
        rest, positions = np.divmod(rest, len(values))
        if ACROSS.get(name):
            cost *= np.asarray(values, dtype=np.float64)[positions] ** ACROSS[name]
    index = int(order[np.argsort(-cost, kind="stable")][number])
    chosen = {}
    for name, values in axes:
        index, position = divmod(index, len(values))
        chosen[name] = values[position]
    return chosen
