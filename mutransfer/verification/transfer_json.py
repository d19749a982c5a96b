"""A transfer check as plain data: what `verdict.json` and `--json` have."""

from __future__ import annotations

from typing import Any

from mutransfer.verification import transfer_words
from mutransfer.verification.reason import as_values, plain
from mutransfer.verification.transfer_verdict import SizeResult, TransferCheck, TransferVerdict


def as_dict(check: TransferCheck) -> dict[str, Any]:
    """The whole check; what is not finite is null."""
    words = transfer_words.sentences(check)
    found: dict[str, Any] = plain(
        {
            "check": "transfer-check",
            "passed": check.passed,
            "state": check.state,
            "has_power": check.has_power,
            "sentence": words[0],
            "words": words,
            "config": check.grid.config.resolved(),
            "hparam": check.grid.hparam,
            "axis": check.grid.axis,
            "sizes": check.grid.sizes,
            "seeds": check.grid.seeds,
            "objective": check.grid.objective,
            "tolerance_octaves": check.tolerance if check.grid.numeric else None,
            "grid_step_octaves": check.grid.step if check.grid.numeric else None,
            "parametrizations": {name: _verdict(check, one) for name, one in check.verdicts.items()},
        }
    )
    return found


def _verdict(check: TransferCheck, one: TransferVerdict) -> dict[str, Any]:
    return {
        "state": one.state,
        "reasons": [{**as_values(why), "sentence": transfer_words.reason(why, check.grid)} for why in one.reasons],
        "transferred_value": one.transferred,
        "drift_octaves": one.drift,
        "drift_interval": one.drift_interval,
        "drift_steps": one.drift / check.grid.step if one.drift is not None and check.grid.step else None,
        "largest_drift_octaves": one.largest_drift,
        "drift_at_least_octaves": one.drift_at_least,
        "regret": one.regret,
        "regret_error": one.regret_error,
        "widened": one.widened,
        "values": one.sizes[0].values,
        "earlier_values": one.earlier,
        "left_out_values": one.left_out,
        "sizes": [_size(size) for size in one.sizes],
        "larger_is_better": [
            {"smaller": c.smaller, "larger": c.larger, "share_of_steps": c.share, "difference": c.difference,
             "error": c.error, "better": c.better}
            for c in one.comparisons
        ],
    }  # fmt: skip


def _size(one: SizeResult) -> dict[str, Any]:
    optimum = one.optimum
    found: dict[str, Any] = {
        "size": one.size,
        "best_value": None if one.best is None else one.values[one.best],
        "loss": None if one.best is None else float(one.mean[one.best]),
        "loss_deviation": one.deviation,
        "losses": one.losses.tolist(),
    }
    if optimum is not None:
        found |= {
            "optimum": 2.0**optimum.octaves,
            "optimum_octaves": optimum.octaves,
            "interval_octaves": optimum.interval,
            "fitted": optimum.fitted,
            "edge": optimum.edge,
            "edge_share": optimum.edge_share,
        }
    return found
