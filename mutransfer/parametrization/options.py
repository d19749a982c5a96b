"""Which optional rules a config turns on, evaluated and put into words. Imports no torch."""

from __future__ import annotations

from mutransfer.config.schema import RunConfig
from mutransfer.parametrization import rules
from mutransfer.parametrization.rules import DepthScaling, Options


def options_of(config: RunConfig) -> Options:
    """The optional rules of a config at its own depth, batch size and number of steps."""
    chosen, optimizer = config.rules, config.hparams.record.family
    depth, factor, notes = None, 1.0, []

    def kept(factor: float) -> str:
        fixed = chosen.weight_decay == "fixed_product" and config.hparams.weight_decay
        return f", weight decay × {1 / factor:.4g} (lr × λ stays fixed)" if fixed else ""

    if chosen.weight_decay == "independent":
        notes.append("rules.weight_decay independent: a step decays by λ × the schedule's factor, whatever the lr")
    if chosen.embedding_lr_exponent:
        notes.append(f"rules.embedding_lr_exponent: lr of lookup tables × m_out^{chosen.embedding_lr_exponent:g}")
    if chosen.depth is not None:
        size = config.model.layers or chosen.depth.base_depth
        depth = DepthScaling(size / chosen.depth.base_depth, chosen.depth.alpha)
        notes.append(
            f"rules.depth: residual branches × {depth.branch:.4g}, lr in blocks × {depth.lr(optimizer):.4g} "
            f"(depth {size} = {depth.multiplier:g} × {chosen.depth.base_depth}, α = {depth.alpha:g})"
        )
    if chosen.batch_size is not None:
        size, base = config.training.batch_size, chosen.batch_size.base_batch_size
        own = rules.batch_lr(size / base, optimizer, chosen.batch_size.exponent)
        factor *= own
        notes.append(
            f"rules.batch_size: every lr × {own:.4g}{kept(own)} (batch size {size} = {size / base:g} × {base})"
        )
    if chosen.horizon is not None:
        size, base = config.training.steps, chosen.horizon.base_steps
        own = rules.horizon_lr(size / base, chosen.horizon.exponent)
        factor *= own
        notes.append(f"rules.horizon: lr × {own:.4g}{kept(own)} ({size} steps = {size / base:g} × {base})")
    init, lr = 1.0, 1.0
    if chosen.interpolation is not None:
        init, lr = chosen.interpolation.init, chosen.interpolation.lr
        notes.append(f"rules.interpolation: init scaling to the power {init:g}, lr scaling to the power {lr:g}")
    return Options(
        weight_decay=chosen.weight_decay,
        lookup_exponent=chosen.embedding_lr_exponent,
        init=init,
        lr=lr,
        depth=depth,
        lr_factor=factor,
        notes=tuple(notes),
    )
