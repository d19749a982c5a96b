"""The picture of a coordinate check: every module's change and size against width, beside the control."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mutransfer.report.figures import save_figure, styled
from mutransfer.verification.coord_check import CoordinateCheck
from mutransfer.verification.coordinates import Measurements, Numbers
from mutransfer.verification.verdict import ModuleVerdict, settled_change

_QUANTITIES = (("change", "change since init"), ("update", "own update"), ("size", "size at init"))
_KINDS = (
    ("norm", "norms, activations, sums"), ("input", "input layers"), ("hidden", "hidden layers"),
    ("attention", "attention logits"), ("readout", "readouts"),
)  # fmt: skip
_COLOURS = {"norm": "#7f7f7f", "input": "#2ca02c", "hidden": "#1f77b4", "attention": "#9467bd", "readout": "#ff7f0e"}
_FAILED = "#d62728"
_LABELS = 4
_LEAST_SPAN = 16.0


def draw_coordinate_check(check: CoordinateCheck, stem: Path) -> tuple[Path, Path]:
    """Write the picture as `stem`.png and `stem`.svg; their paths.

    Rows are what is judged (change, own update, size), columns what was checked and the control `sp`. One line per
    module, geometric mean over seeds, coloured by kind; failing modules are thick, marked, and named at their ends.

    Raises:
        UsageError: the disk refuses.
    """
    columns = [(check.measured[0], check.modules)]
    if check.control is not None:
        columns.append((check.measured[1], check.control))
    with styled():
        figure = Figure(figsize=(1.5 + 5.2 * len(columns), 10.5), layout="constrained")
        grid = figure.subplots(len(_QUANTITIES), len(columns), squeeze=False, sharex=True, sharey="row")
        for column, (measured, verdicts) in enumerate(columns):
            failed = sum(one.outcome == "fail" for one in verdicts)
            title = f"{measured.parametrization}: {failed} of {len(verdicts)} modules fail" if failed else (
                f"{measured.parametrization}: all {len(verdicts)} modules pass"
            )  # fmt: skip
            grid[0][column].set_title(title, fontweight="bold", color=_FAILED if failed else "black")
            for row, (quantity, label) in enumerate(_QUANTITIES):
                _panel(grid[row][column], quantity, measured, verdicts)
                if column == 0:
                    grid[row][column].set_ylabel(f"{label} (RMS)")
        for axes in grid[-1]:
            axes.set_xlabel(check.axis)
        _legend(figure, check)
        return save_figure(figure, stem)


def _panel(axes: Axes, quantity: str, measured: Measurements, verdicts: tuple[ModuleVerdict, ...]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(measured.sizes, [str(size) for size in measured.sizes])
    axes.minorticks_off()
    failures: list[tuple[float, str]] = []
    for verdict in verdicts:
        slope = getattr(verdict, quantity)
        values = _table(quantity, measured.values[verdict.module])
        usable = np.isfinite(values) & (values > 0)
        if not usable.any() or (quantity != "size" and verdict.kind == "fixed"):
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(usable.all(axis=0), np.exp2(np.log2(np.where(usable, values, 1.0)).mean(axis=0)), np.nan)
        allowed = verdict.size_allowed if quantity == "size" else getattr(verdict, f"{quantity}_allowed")
        bad = verdict.outcome == "fail" and (slope is None or not allowed[0] <= slope.value <= allowed[1])
        axes.plot(
            measured.sizes, mean, color=_FAILED if bad else _COLOURS[_kind(verdict)], alpha=0.9 if bad else 0.55,
            linewidth=1.8 if bad else 1.2, marker="o" if bad else None, markersize=3,
            zorder=3 if bad else 2,
        )  # fmt: skip
        if bad:
            exponent = "" if slope is None else f" {slope.value:+.2f}"
            failures.append((np.inf if slope is None else slope.value, f"{verdict.module}{exponent}"))
    low, high = axes.get_ylim()
    middle = np.sqrt(low * high)
    if high / low < _LEAST_SPAN:  # or noise of a percent would fill the panel
        axes.set_ylim(middle / np.sqrt(_LEAST_SPAN), middle * np.sqrt(_LEAST_SPAN))
    _name_worst(axes, failures)


def _name_worst(axes: Axes, failures: list[tuple[float, str]]) -> None:
    """The steepest failures by name, in the corner that their lines leave free."""
    worst = sorted(failures, key=lambda one: abs(one[0]), reverse=True)[:_LABELS]
    if not worst:
        return
    more = f"\nand {len(failures) - len(worst)} more" if len(failures) > len(worst) else ""
    rising = worst[0][0] > 0
    axes.text(
        0.02, 0.98 if rising else 0.02, "\n".join(text for _, text in worst) + more, transform=axes.transAxes,
        va="top" if rising else "bottom", fontsize=7, color=_FAILED, zorder=4,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip


def _table(quantity: str, values: Mapping[str, Numbers]) -> Any:
    if quantity == "size":
        return values["rms"][..., 0]
    return settled_change(values[f"{quantity}_rms"])


def _kind(verdict: ModuleVerdict) -> str:
    if verdict.kind == "attention logits":
        return "attention"
    if verdict.kind == "readout":
        return "readout"
    return verdict.role if verdict.role in ("input", "hidden") else "norm"


def _legend(figure: Figure, check: CoordinateCheck) -> None:
    kinds = {_kind(one) for one in check.modules}
    lines = [Line2D([], [], color=_COLOURS[kind], label=label) for kind, label in _KINDS if kind in kinds]
    lines.append(Line2D([], [], color=_FAILED, marker="o", markersize=3, label="fails (with its slope)"))
    figure.legend(handles=lines, loc="outside lower center", ncols=min(len(lines), 3))
    figure.suptitle(
        f"coordinate check: {check.outcome} (|slope| ≤ {check.threshold:g}, {check.steps} steps, {check.seeds} seeds)",
        fontsize=11,
    )
