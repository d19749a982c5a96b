"""Every known reason why hparams of this proxy may not be the best for this target."""

from __future__ import annotations

from mutransfer.config.schema import RunConfig

# Fields that an optional rule scales along, and the rule.
_RULES = {
    ("training", "batch_size"): "batch_size",
    ("training", "steps"): "horizon",
    ("model", "depth"): "depth",
}
# TP-V §4 and its FAQ: smaller proxies than this transfer less well.
_MINIMUM = {
    ("model", "width"): 256,
    ("model", "depth"): 4,
    ("training", "batch_size"): 32,
    ("data", "seq_len"): 128,
    ("training", "steps"): 5000,
}
_SCALED_ALONG = {
    ("training", "batch_size"): "the best lr depends on the batch size, and no rule was applied",
    ("training", "steps"): "the best lr depends on the horizon, and no rule was applied",
    ("data", "seq_len"): "transfer over sequence length holds only roughly (TP-V Fig. 4)",
    ("model", "depth"): "transfer over depth holds only roughly without depth rules (TP-V Fig. 4)",
}


def reasons_against(proxy: RunConfig, target: RunConfig) -> list[str]:
    """What a careful user would want to know before spending the target's compute, a line each."""
    found = []
    if target.parametrization == "sp":
        found.append("parametrization sp does not transfer: its best lr moves with width; sweep with mup")
    if not target.trainer.inspectable:
        found.append(
            f"whether the {target.model.kind} follows µP cannot be seen from here; mutransfer transfer-check shows "
            "whether its optimum stays where it is"
        )
    small = [
        f"{field} {_field(proxy, section, field)} < {least}"
        for (section, field), least in _MINIMUM.items()
        if (_field(proxy, section, field) or least) < least and field not in proxy.model.dead_training()
    ]
    if small:
        found.append(f"the proxy is below the smallest that TP-V found to transfer well: {', '.join(small)}")
    if target.model.width < proxy.model.width:
        found.append(f"the target ({target.model.width}) is narrower than the proxy ({proxy.model.width})")
    for (section, field), why in _SCALED_ALONG.items():
        before, after = _field(proxy, section, field), _field(target, section, field)
        rule = _RULES.get((section, field))
        if before != after and (rule is None or getattr(target.rules, rule) is None):
            found.append(f"{section}.{field} changes from {before} to {after}: {why}")
    if target.hparams.weight_decay:
        swept = proxy.search is not None and "weight_decay" in proxy.search.space
        found.append(
            "weight_decay regularises, and TP-V lists regularisation as not transferable: the best value depends on "
            f"model and data size{'; it was swept on the proxy' if swept else ''}"
        )
    if target.model.has_norm_gains:
        found.append("trainable norm gains break transfer (Lingle 2024): set model.norm_gain to false")
    return found


def _field(config: RunConfig, section: str, field: str) -> int | None:
    value: int | None = getattr(getattr(config, section), field, None)
    return value
