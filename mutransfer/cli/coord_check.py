"""`mutransfer coord-check`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mutransfer.cli import console as ui
from mutransfer.cli.options import RUNS, AsJson, ConfigFile, Runs, Sets, whole_numbers

if TYPE_CHECKING:
    from mutransfer.verification.coord_check import CoordinateCheck
    from mutransfer.verification.slopes import Slope


def run(
    config: ConfigFile,
    sets: Sets = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Sizes to train, as 64,128,256; base width × 1, 2, 4, 8, 16 when left out (over depth 2 to 32).",
            metavar="N,N,…",
        ),
    ] = None,
    axis: Annotated[str, typer.Option(help="What grows: width or depth.", metavar="AXIS")] = "width",
    steps: Annotated[int, typer.Option(help="Training steps, at least 6.", min=6)] = 8,
    seeds: Annotated[
        int, typer.Option(help="Seeds to begin with; as many again where intervals leave a module unclear.", min=1)
    ] = 3,
    lr: Annotated[
        float | None,
        typer.Option(help="lr at base width; the config's, at most 0.001 (SGD 0.1, Muon 0.02), when left out."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Largest |slope| of log size against log width that counts as flat.")
    ] = 0.1,
    control: Annotated[
        bool, typer.Option("--control/--no-control", help="Run sp beside it, which has to fail.")
    ] = True,
    finite: Annotated[
        list[str] | None,
        typer.Option("--finite", metavar="MODULE", help="A module that does not grow on purpose. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the result; RUNS/NAME/checks/coord-check[-AXIS] when left out.")
    ] = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Check that every module keeps its size and its change as the model grows; exit code 3 where one does not."""
    with ui.errors_reported(as_json):
        from mutransfer.cli.progress import Bar
        from mutransfer.config.load import load_config
        from mutransfer.executors.devices import single_device
        from mutransfer.files import require_place
        from mutransfer.report.coordinate_files import coord_check_folder, write_coordinate_check
        from mutransfer.signals import stop_on_signals
        from mutransfer.verification.coord_check import check_config

        parsed, wanted = load_config(config, sets or ()), whole_numbers(sizes)
        folder = out if out is not None else coord_check_folder(runs, parsed.name, axis)
        require_place(folder)
        with closing(Bar("models")) as bar, stop_on_signals() as stopping:
            check = check_config(
                parsed,
                sizes=wanted,
                axis=axis,
                seeds=seeds,
                steps=steps,
                threshold=threshold,
                control=control,
                finite=finite or (),
                device=single_device().torch_name,
                lr=lr,
                on_progress=lambda done, total, news: bar.update(done, total, news, news),
                should_stop=stopping,
            )
        written = write_coordinate_check(check, folder, config=parsed)
        if as_json:
            ui.print_json({**check.as_dict(), "files": [str(path) for path in written]})
        else:
            _show(check)
            ui.say(f"Files: {', '.join(str(path) for path in written)}")
    if not check.passed:
        raise typer.Exit(3)


def _show(check: CoordinateCheck) -> None:
    sp = {one.module: one for one in check.control or ()}
    ui.show_table(
        f"{check.parametrization} over {check.axis} {', '.join(map(str, check.sizes))}: slopes of log size, with 95 % "
        f"intervals; {check.steps} steps at lr {check.lr:g}, {check.seeds} seeds, |slope| ≤ {check.threshold:g}",
        ["module", "size at init", "change", "own update", "verdict", *(["sp's change"] if sp else [])],
        [
            [one.module, *map(_slope, (one.size, one.change, one.update)), _word(one.outcome)]
            + ([_slope(sp[one.module].change) if one.module in sp else "–"] if sp else [])
            for one in check.modules
        ],
    )
    ui.say(check.sentence)
    if check.hint is not None:
        ui.say(f"Likely cause: {check.hint}")
    if check.axis == "width" and any(one.size is None or one.size.value < -check.threshold for one in check.modules):
        ui.say("Readouts and attention logits may be zero or shrink at init (to width^-0.5), not grow; – is zero.")
    ui.warn(check.warnings)


def _slope(slope: Slope | None) -> str:
    return "–" if slope is None else f"{slope.value:+.2f} [{slope.low:+.2f}, {slope.high:+.2f}]"


def _word(outcome: str) -> str:
    return outcome if outcome == "pass" else outcome.upper()
