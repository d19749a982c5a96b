"""The picture of a transfer check: loss against value, a line per size; training curves at the value transferred."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from mutransfer.report.figures import save_figure, styled
from mutransfer.verification.transfer_verdict import SizeResult, TransferCheck, TransferVerdict
from mutransfer.verification.wider import WidthCurve

# Losses above the lowest by more than this share of the inner spread are cut off: they would flatten the rest.
_HEADROOM = 2.5
_MOST_TICKS = 7
_SAYS = {"passed": "transfers", "failed": "does not transfer", "undecided": "undecided"}


def transfer_figure(check: TransferCheck, stem: Path) -> tuple[Path, Path]:
    """Write the picture as `stem`.png and `stem`.svg; their paths.

    Raises:
        UsageError: the disk refuses.
    """
    with styled():
        verdicts = list(check.verdicts.values())
        figure = Figure(figsize=(4.6 * len(verdicts) + 0.6, 7.0), layout="constrained")
        axes: Any = figure.subplots(2, len(verdicts), squeeze=False, sharey="row")
        palette = mpl.colormaps["viridis"](np.linspace(0.0, 0.88, len(check.grid.sizes)))
        colors = dict(zip(check.grid.sizes, palette, strict=True))
        for column, verdict in enumerate(verdicts):
            _losses(axes[0, column], check, verdict, colors, first=column == 0)
            _training(axes[1, column], check, verdict, colors, first=column == 0)
        _limit_losses(axes[0, 0], verdicts)
        _limit_training(axes[1, 0], next((verdict.curves for verdict in verdicts if verdict.curves), ()))
        for column, verdict in enumerate(verdicts):
            _mark_diverged(axes[0, column], check, verdict, colors)
        axes[0, -1].legend(title=check.grid.axis, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return save_figure(figure, stem)


def _losses(axes: Axes, check: TransferCheck, verdict: TransferVerdict, colors: dict[int, Any], *, first: bool) -> None:
    grid = check.grid
    for one in verdict.sizes:
        x, color = _places(one), colors[one.size]
        mean = np.where(np.isfinite(one.mean), one.mean, np.nan)
        low, high = (np.where(np.isfinite(one.mean), limit, np.nan) for limit in (one.losses.min(1), one.losses.max(1)))
        if grid.numeric:
            axes.plot(x, mean, color=color, marker="o", markersize=3, linewidth=1.3, label=str(one.size))
            axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        else:
            spread = [mean - low, high - mean]
            axes.errorbar(
                x, mean, yerr=spread, color=color, marker="o", markersize=4, linestyle="", label=str(one.size)
            )
        if one.optimum is not None:
            place = one.optimum.octaves
            error = None
            if one.optimum.interval is not None:
                left, right = one.optimum.interval
                error = [[max(0.0, place - left)], [max(0.0, right - place)]]
            axes.errorbar(
                [place], [one.optimum.loss], xerr=error, color=color, marker="D" if one.optimum.edge is None else "X",
                markersize=7, markeredgecolor="black", markeredgewidth=0.7, capsize=3, linewidth=1.2, zorder=5,
            )  # fmt: skip
    title = f"{verdict.parametrization}: {_SAYS[verdict.state]}"
    if verdict.drift is not None:
        title += f" (drift {verdict.drift:+.2f} octaves)"
    axes.set_title(title)
    axes.set_xlabel(grid.hparam + (" (octave grid; ◆ optimum, ✖ optimum at an edge)" if grid.numeric else ""))
    if first:
        axes.set_ylabel(f"{grid.objective.replace('_', ' ')} (nats), mean and range of {len(grid.seeds)} seed(s)")
    if grid.numeric:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda octaves, _: f"{2.0**octaves:.3g}"))
        places = _places(verdict.sizes[0])
        axes.set_xticks(places[:: -(-len(places) // _MOST_TICKS)])  # more would run into one another
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xticks(_places(verdict.sizes[0]), [str(value) for value in verdict.sizes[0].values], rotation=20)


def _training(
    axes: Axes, check: TransferCheck, verdict: TransferVerdict, colors: dict[int, Any], *, first: bool
) -> None:
    for curve in verdict.curves:
        losses = np.where(np.isfinite(curve.losses), curve.losses, np.nan)
        steps = np.arange(1, losses.shape[1] + 1)
        axes.plot(steps, losses.mean(axis=0), color=colors[curve.size], linewidth=1.2, label=str(curve.size))
        axes.fill_between(steps, losses.min(0), losses.max(0), color=colors[curve.size], alpha=0.15, linewidth=0)
    value = verdict.transferred
    shown = f"{value:.3g}" if isinstance(value, float) else str(value)
    base = check.grid.sizes[0]
    what = f"all sizes with {check.grid.hparam} {shown}, the best at {base}" if value is not None else "no usable value"
    axes.set_title(f"{verdict.parametrization}: {what}")
    axes.set_xlabel("step")
    if first:
        axes.set_ylabel("training loss, smoothed (nats)")


def _places(one: SizeResult) -> np.ndarray[Any, Any]:
    """Where values stand on the x axis: octaves, or names in a row."""
    if any(isinstance(value, str) for value in one.values):
        return np.arange(len(one.values), dtype=np.float64)
    return np.log2(np.array(one.values, dtype=np.float64))


def _limit_losses(axes: Axes, verdicts: list[TransferVerdict]) -> None:
    """Show the valleys whole; the slopes beside them may leave the picture."""
    means = [one.mean[np.isfinite(one.mean)] for verdict in verdicts for one in verdict.sizes]
    known = [mean for mean in means if len(mean)]
    if not known:
        return
    lowest = min(float(mean.min()) for mean in known)
    highest = max(float(mean.max()) for mean in known)
    middle = max(float(np.quantile(mean, 0.5)) for mean in known)
    top = min(highest, lowest + _HEADROOM * (middle - lowest)) if middle > lowest else highest
    margin = 0.06 * (top - lowest) or 0.1
    axes.set_ylim(lowest - margin, top + 2 * margin)


def _limit_training(axes: Axes, curves: Sequence[WidthCurve]) -> None:
    """Fit the picture to the judged curves after their first, steep steps; a bad control may leave it above."""
    if not curves:
        return
    steps = curves[0].losses.shape[1]
    late = np.concatenate([curve.losses[:, steps // 10 :].ravel() for curve in curves])
    late = late[np.isfinite(late)]
    if len(late):
        low, high = float(late.min()), float(np.quantile(late, 0.995))
        margin = 0.05 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + 5 * margin)


def _mark_diverged(axes: Axes, check: TransferCheck, verdict: TransferVerdict, colors: dict[int, Any]) -> None:
    """A cross at the top of the picture for every value at which a run diverged, a row per size."""
    low, high = axes.get_ylim()
    for row, one in enumerate(verdict.sizes):
        x = _places(one)[np.isinf(one.losses).any(axis=1)]
        y = np.full(len(x), high - (row + 1) * 0.025 * (high - low))
        axes.scatter(x, y, marker="x", s=22, color=colors[one.size], linewidths=1.3, zorder=6)
    if any(np.isinf(one.losses).any() for one in verdict.sizes):
        axes.text(
            0.99, 1.0 - 0.025 * (len(check.grid.sizes) + 1), "× diverged", transform=axes.transAxes, ha="right",
            va="top", fontsize=7,
        )  # fmt: skip
