"""`mutransfer sweep`."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mutransfer.cli import console as ui
from mutransfer.cli.options import RUNS, AsJson, ConfigFile, ExecutorName, Runs, Sets, Workers

if TYPE_CHECKING:
    from mutransfer.config.schema import RunConfig
    from mutransfer.sweep.coordinator import SweepResult

_SHOWN = 5


def run(
    config: ConfigFile,
    sets: Sets = None,
    workers: Workers = None,
    pack: Annotated[
        int | None,
        typer.Option(
            help="Trials that a worker trains at once as one program; 1 trains them one by one. Default: the "
            "fastest number, which is measured.",
            min=1,
        ),
    ] = None,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Skip the quick coordinate check; the run's provenance says so.")
    ] = False,
    executor: ExecutorName = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Search hparams on the proxy; called again, it continues where it stopped."""
    with ui.errors_reported(as_json):
        from mutransfer.cli.progress import SweepProgress
        from mutransfer.config.load import load_config, with_executor
        from mutransfer.parametrization.options import options_of
        from mutransfer.signals import stop_on_signals
        from mutransfer.sweep.coordinator import run_sweep
        from mutransfer.sweep.trial import make_executor
        from mutransfer.verification.gate import check_before_sweep

        parsed = with_executor(load_config(config, sets or ()), executor)
        for rule in options_of(parsed).notes:
            ui.note(rule)
        with stop_on_signals() as stopping, SweepProgress() as observer:

            def check(root: Path) -> str:
                inspectable = parsed.trainer.inspectable
                if inspectable:
                    ui.note("Quick coordinate check first (--no-check skips it)")
                said = check_before_sweep(parsed, root, stopping)
                ui.note(said if inspectable else f"Quick coordinate check {said}")
                return said

            result = run_sweep(
                parsed,
                runs=runs,
                executor=lambda: make_executor(parsed, workers=workers),
                observer=observer,
                should_stop=stopping,
                check=None if no_check else check,
                pack=pack,
                arrange=workers is None,
            )
        if as_json:
            ui.print_json(_as_data(parsed, result))
        else:
            _show(parsed, result, runs)


def _as_data(config: RunConfig, result: SweepResult) -> dict[str, Any]:
    from mutransfer.sweep.results import best

    return {
        "run": str(result.folder.root),
        "trials": len(result.records),
        "outcomes": Counter(str(record.furthest.outcome) for record in result.records),
        "best": best(config, result.selection),
    }


def _show(config: RunConfig, result: SweepResult, runs: Path) -> None:
    search = config.require_search()
    selection = result.selection
    names, several = list(search.space), len(selection.means) > 1
    rows = [
        [
            f"{record.number}{' =' if record.number in selection.ties else ''}",
            ui.loss(record.value),
            *([ui.loss(selection.means.get(record.number))] if several else []),
            *(ui.number(record.params[name]) for name in names),
            ui.duration(record.seconds or 0),
        ]
        for record in selection.ranking[:_SHOWN]
    ]
    ui.show_table(
        f"Best of {len(result.records)} trials of {config.name}",
        ["trial", search.objective, *([f"mean of {selection.runs}"] if several else []), *names, "time"],
        rows,
    )
    if selection.seed_noise is not None:
        tied = f"{len(selection.ties)} trial(s) marked = tie with the best" if selection.ties else "no trial ties"
        count = len(selection.means)
        of = "the best trial" if count == 1 else f"the {count} best trials"
        between = f", of their difference with one seed ±{selection.difference_noise:.4f}" if count > 1 else ""
        spread = f"±{selection.seed_noise:.4f} (standard deviation of {selection.runs} runs)"
        ui.say(f"Seed noise of {of}: {spread}{between}; {tied}.")
    ui.warn(selection.warnings)
    ui.say(f"All trials: {result.folder.table}   The winner: {result.folder.best}")
    elsewhere = "" if runs == RUNS else f" --runs {shlex.quote(str(runs))}"
    ui.say(f"Next: mutransfer transfer --width {8 * config.model.width}{elsewhere}")
