"""The `rules:` section: optional scaling rules beyond µP's own table; all are off by default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mutransfer.config.base import Depth, Section, Size, Steps

Share = Annotated[float, Field(ge=0, le=1)]


class DepthRule(Section):
    """CompleteP (arXiv 2505.01618): residual branches × m_L^-α, lr in blocks × m_L^(α-1), for pre-norm models."""

    base_depth: Depth
    """Depth at which the rule changes nothing; the same for proxy and target."""
    alpha: Annotated[float, Field(ge=0.5, le=1)] = 1.0
    """α: 1 is CompleteP, 0.5 depth-µP."""


class BatchSizeRule(Section):
    """lr follows the batch size: × √κ for Adam-like optimizers, × κ for SGD, where κ = batch size / base."""

    base_batch_size: Size
    """Batch size at which the rule changes nothing."""
    exponent: Share | None = None
    """Power of κ, instead of 0.5 (Adam-like) or 1 (SGD)."""


class HorizonRule(Section):
    """lr follows the number of steps: × (steps / base)^-0.32, fitted for language models (arXiv 2409.19913)."""

    base_steps: Steps
    """Number of steps at which the rule changes nothing."""
    exponent: Annotated[float, Field(ge=-1, le=0)] = -0.32
    """Power of steps / base."""


class Interpolation(Section):
    """A point of the plane between `sp` and `mup` (TP-V Fig. 3)."""

    init: Share
    """Exponent of the init scaling and of the attention scale: 0 as in `sp`, 1 as in `mup`."""
    lr: Share
    """Exponent of the scaling of lr and ε: 0 as in `sp`, 1 as in `mup`."""


class RulesSection(Section):
    """Scaling rules beyond the table of the parametrization."""

    weight_decay: Literal["fixed_product", "independent"] = "fixed_product"
    """`fixed_product`: lr × λ is the same at every width, batch size, horizon and depth. `independent`: a step decays
    weights by λ × the schedule's factor, whatever the lr is (Wortsman et al. 2023); λ is then smaller, by a factor of
    about the lr."""
    embedding_lr_exponent: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Adam's lr for lookup tables is also multiplied by m_out to this power. 0 is TP-V's rule. Hayou & Liu 2025 derive
    -0.5 for vocabularies much larger than the width; 0.5 had no gain here (BENCHMARKS.md)."""
    depth: DepthRule | None = None
    """Transfer over depth."""
    batch_size: BatchSizeRule | None = None
    """Transfer over batch size."""
    horizon: HorizonRule | None = None
    """Transfer over the number of steps."""
    interpolation: Interpolation | None = None
    """For parametrization `interpolated`, and required there."""
