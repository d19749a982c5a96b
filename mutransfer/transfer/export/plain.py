"""Plain JSON: every number that a trainer of any kind needs, per parameter, with what each of them means."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from mutransfer.config.schema import RunConfig
from mutransfer.models import plan_of
from mutransfer.parametrization.plan import Plan
from mutransfer.parametrization.settings import settings
from mutransfer.transfer.export.base import Export, kind_of, origin

VERSION = 1
_NOTES = (
    "init_std is the std of the initial normal draw, init_scale included; null: left as the framework makes it",
    "input_multiplier multiplies what goes into the parameter's layer, output_multiplier what comes out (temperature, "
    "embedding_scale, position_scale); attention_scale multiplies q·k, residual_scale what a block's branches add",
    "lr is the peak of the parameter's own lr, base_lr and base_weight_decay are what it has at base width; a trainer "
    "that scales by width itself is given those of base width",
    "the schedule's factor at step s of S, W = round(warmup × S) of them warmup: (s+1)/W while s < W, then the "
    "schedule with progress (s-W)/(S-W); linear and cosine end at final_lr",
)
_DECOUPLED = (
    "weight_decay is decoupled and multiplied by the lr, as in torch.optim.AdamW: w ← w - lr · weight_decay · w"
)
_COUPLED = "weight_decay is added to the gradient, as in torch.optim.SGD"
_EPS = "eps is added to √v̂, as in torch: a trainer with one ε for all parameters uses the base one"


def export(config: RunConfig, *, force: bool = False) -> Export:
    """The config and its plan as one JSON object; the config alone where the model cannot be built here."""
    del force
    plan = plan_of(config) if config.trainer.inspectable else None
    notes: list[str] = []
    if plan is None:
        notes.append(f"a {config.model.kind} trains this model: its parameters and their scaling are not known here")
    else:
        optimizer = config.hparams.record
        notes += [
            *_NOTES,
            _COUPLED if optimizer.weight_decay == "coupled" else _DECOUPLED,
            *plan.options.notes,
        ]
        notes += [_EPS] if "eps" in optimizer.hparams else []
        notes += plan.warnings
    content = {
        "format": "mutransfer-export",
        "version": VERSION,
        "name": config.name,
        "origin": origin(config),
        **{
            key: value for key, value in config.resolved().items() if key in ("model", "data", "training", "provenance")
        },
        "parametrization": config.parametrization,
        "hparams": config.hparams.filled().model_dump(mode="json", exclude_none=True),
        "width_multiplier": config.model.width / config.model.base_width,
        **({} if plan is None else _plan(config, plan)),
        "notes": notes,
    }
    return Export("json", json.dumps(content, indent=2, ensure_ascii=False) + "\n", content, tuple(notes))


def _plan(config: RunConfig, plan: Plan) -> dict[str, Any]:
    numbers, base = settings(plan, config.hparams), settings(plan, config.hparams, scaled=False)
    rows = []
    for name, one in plan.parameters.items():
        own, before, module = numbers.optimizer[name], base.optimizer[name], numbers.module_of(name)
        rows.append(
            {
                "name": name,
                "kind": kind_of(name),
                "shape": list(one.shape),
                "role": one.role,
                "tied_to": one.tied_to,
                "m_in": one.m_in,
                "m_out": one.m_out,
                "init_std": numbers.init_std[name],
                "input_multiplier": module.input_multiplier,
                "output_multiplier": module.output_multiplier,
                **{key: value for key, value in asdict(own).items() if key != "family"},
                "base_lr": before.lr,
                "base_weight_decay": before.weight_decay,
                "optimizer": own.family,
            }
        )
    return {
        "parameters": rows,
        "attention_scale": dict(numbers.attention),
        "residual_scale": dict(numbers.residual),
        "relative_scale": dict(numbers.relative),
    }
