"""The folder of a coordinate check: verdict.json, activations.csv and the picture."""

from __future__ import annotations

from pathlib import Path

from mutransfer import __version__
from mutransfer.config.schema import RunConfig
from mutransfer.files import make_folder, write_json
from mutransfer.report.coordinate_figure import draw_coordinate_check
from mutransfer.verification.coord_check import CoordinateCheck
from mutransfer.verification.coordinates import write_activations

VERDICT, ACTIVATIONS, PICTURE = "verdict.json", "activations.csv", "coord-check"


def coord_check_folder(runs: Path, name: str, axis: str = "width") -> Path:
    """Where the check of a config of this name lies, one per axis."""
    return runs / name / "checks" / ("coord-check" if axis == "width" else f"coord-check-{axis}")


def write_coordinate_check(
    check: CoordinateCheck, folder: Path | str, *, config: RunConfig | None = None
) -> list[Path]:
    """Write the check into `folder`, over an earlier one; the verdict last, so that it stands for what is there.

    Raises:
        UsageError: the disk refuses.
    """
    folder = make_folder(Path(folder))
    verdict, activations = folder / VERDICT, folder / ACTIVATIONS
    write_activations(activations, check.measured)
    pictures = draw_coordinate_check(check, folder / PICTURE)
    resolved = None if config is None else config.resolved()
    write_json(verdict, {**check.as_dict(), "config": resolved, "mutransfer": __version__})
    return [verdict, activations, *pictures]
