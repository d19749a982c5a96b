"""Learning-rate schedules as a factor of the peak: a function of (step, steps), with no state to resume."""

from __future__ import annotations

import math

from mutransfer.config.hparams import Hparams


def lr_factor(hparams: Hparams, step: int, steps: int) -> float:
    """Factor on every group's lr at `step` of `steps` (from 0).

    lr rises linearly over the first round(warmup · steps) steps, reaching the peak on the last of them, and then
    follows the schedule:

        constant        1
        linear          from 1 to final_lr
        cosine          half a cosine from 1 to final_lr
        inverse_sqrt    √(warmup steps / step), as in the original Transformer
        step            step_factor for each milestone that has passed, milestones being shares of the run
    """
    warmup = round(hparams.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if hparams.schedule == "constant":
        return 1.0
    if hparams.schedule == "inverse_sqrt":
        return math.sqrt(max(1, warmup) / (step + 1))
    if hparams.schedule == "step":
        passed = sum(step >= milestone * steps for milestone in hparams.resolved("milestones"))
        return float(hparams.resolved("step_factor") ** passed)
    final = float(hparams.resolved("final_lr"))
    if hparams.schedule == "linear":
        return 1.0 - (1.0 - final) * progress
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
