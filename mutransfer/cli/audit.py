"""`mutransfer audit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mutransfer.cli import console as ui
from mutransfer.cli.options import AsJson, ConfigFile, Sets

if TYPE_CHECKING:
    from mutransfer.config.schema import RunConfig
    from mutransfer.parametrization.plan import Plan
    from mutransfer.parametrization.settings import Settings


_OF_PLAN = ("parametrization", "optimizer", "width", "base_width", "fingerprint", "parameter_count")


_SHOWN = ("role", "tied_to", "frozen", "fan_in", "m_in", "m_out")


def run(
    config: ConfigFile,
    width: Annotated[int | None, typer.Option(help="Width; the config's when left out.", min=1)] = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Print what every parameter gets: role, init std, lr, weight decay, ε, forward multiplier."""
    with ui.errors_reported(as_json):
        from mutransfer.config.load import at_width, load_config
        from mutransfer.models import plan_of
        from mutransfer.parametrization.settings import settings

        parsed = load_config(config, sets or ())
        if width is not None:
            parsed = at_width(parsed, width)
        plan = plan_of(parsed)
        before, after = settings(plan, parsed.hparams, scaled=False), settings(plan, parsed.hparams)
        rows = audit_rows(plan, before, after)
        attention = {name: [before.attention[name], scale] for name, scale in after.attention.items()}
        if as_json:
            ui.print_json(
                {
                    "name": parsed.name,
                    **{name: getattr(plan, name) for name in _OF_PLAN},
                    "parameters": rows,
                    "attention_scale": attention,
                    "rules": list(plan.options.notes),
                    "warnings": list(plan.warnings),
                }
            )
        else:
            _show(parsed, plan, rows, attention)


def audit_rows(plan: Plan, before: Settings, after: Settings) -> list[dict[str, Any]]:
    """One record per parameter; scaled values are `[at base size, at this size]`."""
    rows = []
    for name, scaling in plan.parameters.items():
        base, own = before.optimizer[name], after.optimizer[name]

        def pair(first: float | None, second: float | None) -> list[float] | None:
            return None if first is None or second is None else [first, second]

        rows.append(
            {
                "parameter": name,
                "shape": list(scaling.shape),
                **{
                    field: getattr(scaling, field) for field in ("role", "tied_to", "frozen", "fan_in", "m_in", "m_out")
                },
                "init_std": pair(before.init_std[name], after.init_std[name]),
                "lr": [base.lr, own.lr],
                "weight_decay": [base.weight_decay, own.weight_decay],
                "lr × weight_decay": [base.lr * base.weight_decay, own.lr * own.weight_decay],
                "eps": pair(base.eps, own.eps),
                "forward": [1.0, after.module_of(name).input_multiplier],
                "output": after.module_of(name).output_multiplier,
            }
        )
    return rows


def _show(config: RunConfig, plan: Plan, rows: list[dict[str, Any]], attention: dict[str, list[float]]) -> None:
    def pair(values: list[float] | None, absent: str = "–") -> str:
        if values is None:
            return absent
        before, after = values
        return ui.number(float(before)) if before == after else f"{before:.4g} → {after:.4g}"

    ui.show_table(
        f"{config.name}: {plan.parametrization}, {plan.optimizer}, width {plan.width}, base width {plan.base_width}, "
        f"m = {plan.width_multiplier:g}, {plan.parameter_count:,} parameters",
        ["parameter", "shape", "role", "fan-in", "m_in", "init std", "lr", "weight decay", "ε", "input ×", "output ×"],
        [
            [
                row["parameter"] + (f" = {row['tied_to']}" if row["tied_to"] else ""),
                "×".join(map(str, row["shape"])) or "scalar",
                row["role"] + (" (frozen)" if row["frozen"] else ""),
                str(row["fan_in"]),
                f"{row['m_in']:g}",
                pair(row["init_std"], "as made"),
                *(pair(row[name]) for name in ("lr", "weight_decay", "eps", "forward")),
                ui.number(row["output"]),
            ]
            for row in rows
        ],
    )
    for scales in sorted({tuple(both) for both in attention.values()}):
        ui.say(f"attention scale: {pair(list(scales))} × q·k (attention_temperature included)")
    for note in plan.options.notes:
        ui.say(note)
    ui.say(f"logits are divided by temperature {config.hparams.temperature:g}; a → b: at base width → at this width")
    ui.warn(plan.warnings)
