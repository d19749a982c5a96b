"""One look for every picture, and one way to disk: PNG for eyes, SVG for papers, each whole or absent."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from mutransfer.files import write_atomic

_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.hashsalt": "mutransfer",  # the same data gives the same file
}


@contextmanager
def styled() -> Iterator[None]:
    """The common look, for figures made inside; leaves the caller's matplotlib settings alone."""
    with mpl.rc_context(_STYLE):
        yield


def save_figure(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write `stem`.png and `stem`.svg without touching pyplot or any display; their paths.

    Raises:
        UsageError: the disk refuses.
    """
    found = []
    for suffix, canvas, metadata in ((".png", FigureCanvasAgg, {}), (".svg", FigureCanvasSVG, {"Date": None})):
        buffer = io.BytesIO()
        canvas(figure)
        figure.savefig(buffer, format=suffix[1:], dpi=150, bbox_inches="tight", metadata=metadata)
        path = stem.with_name(stem.name + suffix)
        write_atomic(path, buffer.getvalue())
        found.append(path)
    return found[0], found[1]
