"""`mutransfer transfer-check`."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mutransfer.cli import console as ui
from mutransfer.cli.options import RUNS, AsJson, ConfigFile, ExecutorName, Runs, Sets, Workers, whole_numbers

if TYPE_CHECKING:
    from mutransfer.verification.transfer_grid import GridValue, TransferGrid
    from mutransfer.verification.transfer_verdict import TransferCheck, TransferVerdict


class Axis(StrEnum):
    """What may grow."""

    width = "width"
    depth = "depth"
    batch_size = "batch-size"
    seq_len = "seq-len"


def run(
    config: ConfigFile,
    axis: Annotated[Axis, typer.Option(help="What grows.")] = Axis.width,
    sizes: Annotated[
        str | None,
        typer.Option(metavar="N,N,…", help="Sizes, the smallest is the base; base × 1, 2, 4, 8 when left out."),
    ] = None,
    hparam: Annotated[str, typer.Option(help="The hparam that is to transfer.")] = "lr",
    values: Annotated[str | None, typer.Option(metavar="V,V,…", help="Its values: numbers, or names.")] = None,
    grid: Annotated[
        str | None,
        typer.Option(metavar="LOW:HIGH", help="Its values: LOW, 2·LOW, … HIGH; config's × 2^-3 … 2^3 when left out."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds per point; their spread is the noise.", min=2, max=1000)] = 2,
    tolerance: Annotated[
        float | None, typer.Option(help="Octaves that the optimum may move; one step of the grid when left out.", min=0)
    ] = None,
    control: Annotated[
        bool, typer.Option("--control/--no-control", help="Run sp beside it, which should fail.")
    ] = True,
    workers: Workers = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads per worker.", min=1)] = None,
    executor: ExecutorName = None,
    runs: Runs = RUNS,
    out: Annotated[Path | None, typer.Option(help="Folder; runs/NAME/checks/transfer-check/… when left out.")] = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Check that an hparam's best value stays the best as the model grows; called again, it continues."""
    with ui.errors_reported(as_json):
        from mutransfer.cli.progress import CheckProgress
        from mutransfer.config.load import load_config, with_executor
        from mutransfer.report.transfer_figure import transfer_figure
        from mutransfer.signals import stop_on_signals
        from mutransfer.sweep.trial import make_executor
        from mutransfer.verification import transfer_json
        from mutransfer.verification.transfer_check import run_transfer_check
        from mutransfer.verification.transfer_grid import flops_by_size, make_grid
        from mutransfer.verification.transfer_points import CheckFolder

        parsed = with_executor(load_config(config, sets or ()), executor)
        planned = make_grid(
            parsed,
            axis=axis.value,
            sizes=whole_numbers(sizes),
            hparam=hparam,
            values=_values(values, grid),
            seeds=seeds,
            control=control,
        )
        threads = threads or (None if parsed.search is None else parsed.search.threads)
        folder = CheckFolder(out or runs / parsed.name / "checks" / "transfer-check" / f"{hparam}-{axis.value}")
        flops = flops_by_size(planned)
        with stop_on_signals() as stopping, CheckProgress(lambda: _announce(planned, flops)) as observer:
            check = run_transfer_check(
                planned,
                folder,
                tolerance=tolerance,
                executor=lambda: make_executor(planned.config, workers=workers, threads=threads),
                observer=observer,
                should_stop=stopping,
            )
        pictures = transfer_figure(check, folder.figure)
        code = 0 if check.passed else 3
        if as_json:
            where = {"verdict": folder.verdict, "points": folder.points, "png": pictures[0], "svg": pictures[1]}
            files = {"folder": str(folder.root), "files": {name: str(path) for name, path in where.items()}}
            ui.print_json({**transfer_json.as_dict(check), **files, "exit_code": code})
        else:
            _show(check)
            ui.say(f"Picture: {pictures[0]}   Points: {folder.points}   Verdict: {folder.verdict}")
    if code:
        raise typer.Exit(code)


def _values(values: str | None, grid: str | None) -> tuple[GridValue, ...] | None:
    """The values of --values or --grid; None of neither."""
    from mutransfer.errors import UsageError

    if values is not None and grid is not None:
        raise UsageError("--values and --grid: give one of them")
    if grid is not None:
        low, colon, high = grid.partition(":")
        first, last = _number(low), _number(high)
        if not colon or first is None or last is None or not 0 < first < last:
            raise UsageError(f"--grid {grid}: write it as LOW:HIGH with 0 < LOW < HIGH, for example 0.001:0.064")
        count = math.floor(math.log2(last / first) + 1e-9) + 1
        return tuple(first * 2.0**octave for octave in range(count))
    if values is None:
        return None
    found = [text.strip() for text in values.split(",")]
    if not all(found):
        raise UsageError(f"--values {values}: write values with commas between them, for example 0.001,0.002,0.004")
    for text in found:
        if text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
            raise UsageError(f"--values {values}: {text} is not a value; give finite numbers, or names")
    known = [number for text in found if (number := _number(text)) is not None]
    if known and len(known) < len(found):
        raise UsageError(f"--values {values}: has both numbers and names")
    return tuple(known) or tuple(found)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _announce(grid: TransferGrid, flops: dict[int, int]) -> None:
    each = len(grid.parametrizations) * len(grid.values) * len(grid.seeds)
    runs = ", ".join(
        f"{each} at {grid.axis} {size}" + (f" ({ui.quantity(flops[size] * each, 'FLOP')})" if flops else "")
        for size in grid.sizes
    )
    total = f"; {ui.quantity(sum(flops.values()) * each, 'FLOP')} in all" if flops else ""
    shown = ", ".join(ui.number(value) for value in grid.values)
    ui.note(
        f"{each * len(grid.sizes)} runs of {grid.config.training.steps} steps: {runs}{total}. "
        f"{grid.hparam} {shown}; {len(grid.seeds)} seed(s); {' and '.join(grid.parametrizations)}. "
        "A grid with an optimum at its edge is widened once."
    )
    if not grid.config.model.has_control:
        ui.note("No control: the command never gets {parametrization}, so that it cannot be run in sp")


def _show(check: TransferCheck) -> None:
    from mutransfer.verification import transfer_words

    for verdict in check.verdicts.values():
        _table(check, verdict)
    for sentence in transfer_words.sentences(check):
        ui.say(sentence)


def _table(check: TransferCheck, verdict: TransferVerdict) -> None:
    rows = []
    for one in verdict.sizes:
        optimum: Any = one.optimum
        interval = "–"
        if optimum is not None and optimum.interval is not None:
            interval = " to ".join(ui.number(2.0**end) for end in optimum.interval)
        best = "–" if one.best is None else ui.number(one.values[one.best])
        loss = "–" if one.best is None else ui.loss(float(one.mean[one.best]))
        noise = "–" if one.deviation is None else f"{one.deviation:.4f}"
        place = "–" if optimum is None else ui.number(2.0**optimum.octaves) + (" at edge" if optimum.edge else "")
        rows.append([str(one.size), place, interval, best, loss, noise])
    ui.show_table(
        f"{verdict.parametrization}: {verdict.state}",
        [check.grid.axis, f"optimal {check.grid.hparam}", "95 % interval", "best of grid", "loss", "seed noise ±"],
        rows,
    )
