"""Adam (Kingma and Ba 2015, arXiv 1412.6980)."""

from __future__ import annotations

from dataclasses import replace

from mutransfer.optimizers.adamw import ADAMW
from mutransfer.optimizers.base import of_torch

ADAM = replace(
    ADAMW,  # without weight decay the two are one
    name="adam",
    build=of_torch("Adam"),
    weight_decay="refused",
    refusal="adam's coupled L2 has no width-independent rule; use optimizer adamw",
)
