"""Pictures: both formats, reproducible, and nothing left of the caller's settings changed."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from mutransfer.report.figures import save_figure, styled


def draw(stem: Path) -> tuple[Path, Path]:
    with styled():
        figure = Figure(figsize=(2, 2))
        figure.add_subplot().plot([1, 2], [3, 4])
        return save_figure(figure, stem)


def test_png_and_svg_are_written_and_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    before = mpl.rcParams["axes.grid"]
    first, second = draw(tmp_path / "a"), draw(tmp_path / "b.c")
    assert [path.name for path in (*first, *second)] == ["a.png", "a.svg", "b.c.png", "b.c.svg"]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in first[1].read_bytes()
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert mpl.rcParams["axes.grid"] == before
