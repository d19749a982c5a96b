"""`mutransfer audit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mutransfer.cli import console as ui
from mutransfer.cli.options import AsJson, ConfigFile, Sets

if TYPE_CHECKING:
    from mutransfer.config.schema import RunConfig
    from mutransfer.parametrization.plan import Plan


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

        parsed = load_config(config, sets or ())
        if width is not None:
            parsed = at_width(parsed, width)
        plan = plan_of(parsed)
        rows = audit_rows(parsed, plan)
        if as_json:
            attention = {
                name: [plan.base_attention[name] / parsed.hparams.attention_temperature,
                       scale / parsed.hparams.attention_temperature]
                for name, scale in plan.attention.items()
            }  # fmt: skip
            ui.print_json(
                {
                    "name": parsed.name,
                    "parametrization": plan.parametrization,
                    "optimizer": plan.optimizer,
                    "width": plan.width,
                    "base_width": plan.base_width,
                    "fingerprint": plan.fingerprint,
                    "parameter_count": plan.parameter_count,
                    "parameters": rows,
                    "attention_scale": attention,
                    "rules": list(plan.options.notes),
                    "warnings": list(plan.warnings),
                }
            )
        else:
            _show(parsed, plan, rows)


def audit_rows(config: RunConfig, plan: Plan) -> list[dict[str, Any]]:
    """One record per parameter; scaled values are `[at base width, at this width]`."""
    from mutransfer.parametrization.plan import optimizer_settings

    hparams = config.hparams
    before = optimizer_settings(plan, **hparams.for_optimizer(), scaled=False)
    after = optimizer_settings(plan, **hparams.for_optimizer())
    rows = []
    for name, scaling in plan.parameters.items():
        std = None
        if scaling.init_std is not None and scaling.base_init_std is not None:
            std = [scaling.base_init_std * hparams.init_scale, scaling.init_std * hparams.init_scale]
        rows.append(
            {
                "parameter": name,
                "shape": list(scaling.shape),
                "role": scaling.role,
                "tied_to": scaling.tied_to,
                "fan_in": scaling.fan_in,
                "m_in": scaling.m_in,
                "m_out": scaling.m_out,
                "init_std": std,
                "lr": [before[name].lr, after[name].lr],
                "weight_decay": [before[name].weight_decay, after[name].weight_decay],
                "eps": None if after[name].eps is None else [before[name].eps, after[name].eps],
                "forward": [1.0, scaling.forward],
            }
        )
    return rows


def _show(config: RunConfig, plan: Plan, rows: list[dict[str, Any]]) -> None:
    def pair(values: list[float] | None, absent: str) -> str:
        if values is None:
            return absent
        before, after = values
        return ui.number(float(before)) if before == after else f"{before:.4g} → {after:.4g}"

    ui.show_table(
        f"{config.name}: {plan.parametrization}, {plan.optimizer}, width {plan.width}, base width {plan.base_width}, "
        f"m = {plan.width_multiplier:g}, {plan.parameter_count:,} parameters",
        ["parameter", "shape", "role", "fan-in", "m_in", "init std", "lr", "weight decay", "ε", "forward ×"],
        [
            [
                row["parameter"] + (f" = {row['tied_to']}" if row["tied_to"] else ""),
                "×".join(map(str, row["shape"])) or "scalar",
                row["role"],
                str(row["fan_in"]),
                f"{row['m_in']:g}",
                pair(row["init_std"], "as made"),
                pair(row["lr"], "–"),
                pair(row["weight_decay"], "–"),
                pair(row["eps"], "–"),
                pair(row["forward"], "–"),
            ]
            for row in rows
        ],
    )
    temperature = config.hparams.attention_temperature
    scales = {(plan.base_attention[name], scale) for name, scale in plan.attention.items()}
    for before, after in sorted(scales):
        ui.say(
            f"attention scale: {pair([before / temperature, after / temperature], '–')} × q·k"
            + ("" if temperature == 1 else f" (attention_temperature {temperature:g} included)")
        )
    for note in plan.options.notes:
        ui.say(note)
    ui.say(f"logits are divided by temperature {config.hparams.temperature:g}; a → b: at base width → at this width")
    ui.warn(plan.warnings)
