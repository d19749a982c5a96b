"""`mutransfer transfer`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mutransfer.cli import console as ui
from mutransfer.cli.options import RUNS, AsJson, Runs

if TYPE_CHECKING:
    from mutransfer.sweep.folder import SweepFolder
    from mutransfer.transfer.target import Target, WhichTrial


def run(
    width: Annotated[int, typer.Option(help="Width of the target.", min=1)],
    depth: Annotated[int | None, typer.Option(help="Depth; the proxy's when left out.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Batch size; the proxy's when left out.", min=1)] = None,
    seq_len: Annotated[int | None, typer.Option(help="Sequence length; the proxy's when left out.", min=1)] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps; the proxy's when left out.", min=1)] = None,
    run_name: Annotated[
        str | None,
        typer.Option("--run", help="Sweep to take, by name or path; the newest finished one when left out."),
    ] = None,
    trial: Annotated[
        str, typer.Option(help="Whose hparams: best, median, or a trial's number.", metavar="TRIAL")
    ] = "best",
    start: Annotated[bool, typer.Option("--launch", help="Start the target run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Transfer although the last check failed.")] = False,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Write the config of the wide target with the winner's hparams, and say what may not hold."""
    with ui.errors_reported(as_json):
        from mutransfer.config.load import load_config
        from mutransfer.sweep.folder import resolve_sweep
        from mutransfer.sweep.status import newest_finished
        from mutransfer.transfer.launch import launch
        from mutransfer.transfer.target import Overrides, make_target
        from mutransfer.verification.gate import require_no_failure

        sweep = newest_finished(runs) if run_name is None else resolve_sweep(run_name, runs)
        overrides = Overrides(width, depth, batch_size, seq_len, steps)
        proxy = load_config(sweep.config)
        check = require_no_failure(proxy, sweep.root, force=force)
        target = make_target(sweep, overrides, trial=_which(trial), check=check, proxy=proxy)
        target.write()
        answer = _as_data(sweep, target)
        if not as_json:
            _show(sweep, target)
        if start:
            ui.note(f"$ mutransfer train {target.folder.config}")
            answer["launched"] = launch(target.folder)
            if not as_json:
                trained = answer["launched"]
                weights = f"; weights: {target.folder.weights}" if target.cost is not None else ""
                measured = "".join(f"{name} {value:.2f}, " for name, value in trained["metrics"].items())
                ui.say(
                    f"{target.config.name}: {measured}validation loss {ui.loss(trained['validation_loss'])}, training "
                    f"loss {ui.loss(trained['training_loss'])} after {trained['steps']} steps{weights}"
                )
        if as_json:
            ui.print_json(answer)
        elif not start:
            resume = " --resume" if target.folder.started else ""
            ui.say(f"Next: mutransfer train {shlex.quote(str(target.folder.config))}{resume}")


def _which(trial: str) -> WhichTrial:
    from mutransfer.errors import UsageError

    if trial == "best":
        return "best"
    if trial == "median":
        return "median"
    if not trial.isdecimal():
        raise UsageError(f"--trial {trial}: must be best, median or a trial's number")
    return int(trial)


def _as_data(sweep: SweepFolder, target: Target) -> dict[str, Any]:
    names = ("parameters", "training_flops", "state_bytes")
    cost: dict[str, Any] = {name: getattr(target.cost, name, None) for name in names}
    return {
        "run": str(sweep.root),
        "trial": target.trial.number,
        "config": str(target.folder.config),
        "changed": list(target.changed),
        "hparams": target.config.hparams.model_dump(mode="json", exclude_none=True),
        "rules": list(target.rules),
        **cost,
        "tuning_flops": target.tuning_flops,
        "tuning_share": _tuning_share(target),
        "warnings": list(target.warnings),
    }


def _show(sweep: SweepFolder, target: Target) -> None:
    origin = target.config.provenance
    proxy_loss = f"{origin.objective} {ui.loss(target.trial.value)}" if origin else ""
    ui.say(f"Target {target.config.name}, from trial {target.trial.number} of {sweep.root} ({proxy_loss})")
    for change in target.changed:
        ui.say(f"  changed    {change}")
    swept = target.trial.params
    hidden = {*swept, *target.config.model.dead_hparams()}
    fixed = {k: v for k, v in target.config.hparams.model_dump(exclude_none=True).items() if k not in hidden}
    for heading, hparams in (("identical", swept), (" " * 9, fixed)):
        if hparams is swept or fixed:
            ui.say(f"  {heading}  {', '.join(f'{name} {ui.number(value)}' for name, value in hparams.items())}")
    for rule in target.rules:
        ui.say(f"  rule       {rule.removeprefix('rules.')}")
    cost, share = target.cost, _tuning_share(target)
    if cost is not None and share is not None:
        ui.say(f"  parameters {cost.parameters:,}")
        ui.say(
            f"  training   {ui.quantity(cost.training_flops, 'FLOP')} in {cost.steps} steps; all tuning took "
            f"{f'{share:.2g} ×' if share >= 1 else f'{100 * share:.2g} %'} of that"
        )
        ui.say(
            f"  memory     {ui.quantity(cost.state_bytes, 'iB', base=1024)} for weights, gradients and optimizer "
            "state in fp32, and activations on top"
        )
    ui.say(f"  config     {target.folder.config}")
    ui.warn(target.warnings)


def _tuning_share(target: Target) -> float | None:
    if target.cost is None or target.tuning_flops is None:
        return None
    return target.tuning_flops / target.cost.training_flops
