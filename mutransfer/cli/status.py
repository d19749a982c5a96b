"""`mutransfer status`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mutransfer.cli import console as ui
from mutransfer.cli.options import RUNS, AsJson, Runs
from mutransfer.errors import UsageError

if TYPE_CHECKING:
    from mutransfer.sweep.folder import SweepFolder
    from mutransfer.sweep.status import SweepStatus


def run(
    name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A sweep, by name or path.")] = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """List sweeps, or the trials and targets of one."""
    with ui.errors_reported(as_json):
        from mutransfer.sweep.folder import find_sweeps, resolve_sweep
        from mutransfer.sweep.status import status

        if name is not None:
            one = status(resolve_sweep(name, runs))
            targets = _targets(one.folder)
            ui.warn([target["error"] for target in targets if "error" in target])
            if as_json:
                trials = [asdict(record) for record in one.records]
                ui.print_json({**_summary(one), "trials": trials, "targets": targets})
            else:
                _show(one, targets)
            return
        summaries = [_summary_or_error(folder) for folder in find_sweeps(runs)]
        if as_json:
            ui.print_json({"runs": summaries})
        elif not summaries:
            ui.say(f"no sweeps in {runs}; make one: mutransfer init, then mutransfer sweep proxy.yaml")
        else:
            _list(summaries)


def _summary(one: SweepStatus) -> dict[str, Any]:
    best = one.best
    return {
        "run": one.folder.root.name,
        "path": str(one.folder.root),
        "state": one.state,
        **asdict(one.standing),
        "objective": one.config.require_search().objective,
        "best": None if best is None else {"trial": best.number, "value": best.value, **best.params},
    }


def _summary_or_error(folder: SweepFolder) -> dict[str, Any]:
    """One damaged run does not hide the others."""
    from mutransfer.errors import MutransferError
    from mutransfer.sweep.status import status

    try:
        return _summary(status(folder))
    except MutransferError as error:
        return {"run": folder.root.name, "path": str(folder.root), "state": "damaged", "error": str(error)}


def _list(summaries: list[dict[str, Any]]) -> None:
    rows = []
    for one in summaries:
        best = one.get("best")
        trials = f"{one['done']}/{one['total']}" if "done" in one else "–"
        leader = f"{ui.loss(best['value'])} (trial {best['trial']})" if best else "–"
        rows.append([one["run"], one["state"], trials, leader])
    ui.show_table("Sweeps, newest first", ["run", "state", "trials", "best"], rows)
    ui.warn([one["error"] for one in summaries if "error" in one])


def _show(one: SweepStatus, targets: list[dict[str, Any]]) -> None:
    search, stands = one.config.require_search(), one.standing
    names = [*(search.across or {}), *search.space]
    rows = [
        [
            str(record.number),
            record.outcome or "unfinished",
            ui.loss(record.value),
            *(ui.number(record.params.get(name)) for name in names),
            *(("–", "–") if record.outcome is None else (ui.number(record.steps), ui.duration(record.seconds))),
        ]
        for record in (trial.furthest for trial in one.records)
    ]
    ui.show_table(
        f"{one.folder.root.name}: {one.state}, {stands.done} of {stands.total} trials{stands.where}",
        ["trial", "outcome", search.objective, *names, "steps", "time"],
        rows,
    )
    if targets:
        ui.show_table(
            "Targets",
            ["target", "state", "validation_loss", "config"],
            [[t["target"], t["state"], ui.loss(t["validation_loss"]), t["config"]] for t in targets],
        )


def _targets(folder: SweepFolder) -> list[dict[str, Any]]:
    found = []
    for config in sorted(folder.targets.glob("*/config.yaml")):
        target = folder.target(config.parent.name)
        one: dict[str, Any] = {"target": target.root.name, "validation_loss": None, "config": str(config)}
        try:
            result = target.read_result()
            one["state"] = "started" if target.started else "planned"
            if result is not None:
                one |= {"state": result.outcome, "validation_loss": result.validation_loss}
        except UsageError as error:
            one |= {"state": "damaged", "error": str(error)}
        found.append(one)
    return found
