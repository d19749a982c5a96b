"""The picture of a transfer check, numeric and by name, with what diverged and without training curves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from matplotlib.collections import PathCollection

from mutransfer.report.transfer_figure import transfer_figure
from mutransfer.verification.transfer_grid import make_grid
from mutransfer.verification.transfer_judge import judge
from mutransfer.verification.transfer_points import Point
from tests.conftest import build


def checked(gpt, **arguments):
    """A check on a parabola around lr 0.01 that diverges from 0.04 on, or on names."""
    planned = make_grid(build(gpt), sizes=[16, 32], **arguments)

    def point(name, size, seed, value):
        gap = len(value) if isinstance(value, str) else math.log2(value / 0.01)
        diverged = gap > 1.9 and not isinstance(value, str)
        loss = None if diverged else 2 + 0.03 * gap**2 + 0.01 * seed
        outcome = "diverged" if diverged else "completed"
        return Point(name, size, seed, value, outcome, loss, loss, Path("nowhere"))

    return judge(planned, {key: point(*key) for key in planned.keys()})  # noqa: SIM118


@pytest.mark.parametrize("arguments", [{}, {"control": False}, {"hparam": "schedule"}])
def test_both_files_are_written_and_say_what_they_show(gpt, tmp_path, arguments):
    png, svg = transfer_figure(checked(gpt, **arguments), tmp_path / "picture")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text(encoding="utf-8")
    assert "<!-- mup: transfers" in text
    assert ("<!-- sp: transfers" in text) == arguments.get("control", True)
    assert ("diverged" in text) == ("hparam" not in arguments)


def test_the_same_check_gives_the_same_picture(gpt, tmp_path):
    check = checked(gpt)
    first = transfer_figure(check, tmp_path / "one")[1].read_bytes()
    assert transfer_figure(check, tmp_path / "two")[1].read_bytes() == first


def test_what_diverged_has_a_cross_at_its_value_in_the_row_of_its_size(gpt, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("mutransfer.report.transfer_figure.save_figure", lambda figure, stem: drawn.append(figure))
    transfer_figure(checked(gpt), tmp_path / "picture")
    axes = drawn[0].axes[0]
    rows = [collection.get_offsets() for collection in axes.collections if isinstance(collection, PathCollection)]
    assert [row[:, 0].tolist() for row in rows] == [pytest.approx([math.log2(0.04), math.log2(0.08)])] * 2
    heights = [set(row[:, 1]) for row in rows]
    assert [len(height) for height in heights] == [1, 1]
    low, high = axes.get_ylim()
    assert high > max(heights[0]) > max(heights[1]) > low
