"""The coordinate check in seconds, as a gate before long work: narrow, few seeds, a wide tolerance, no control."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import ValidationError

from mutransfer.config.schema import RunConfig
from mutransfer.errors import UsageError
from mutransfer.training.tryout import try_out
from mutransfer.verification.coord_check import CoordinateCheck, check_config

FACTORS = (1, 2, 4, 8)
THRESHOLD = 0.25
"""Half the smallest exponent that a broken rule gives: what finite widths do at these sizes stays well below it."""
_MULTIPLIERS = (
    "init_scale",
    "temperature",
    "attention_temperature",
    "embedding_lr",
    "norm_gain_lr",
    "bias_lr",
    "embedding_scale",
    "position_scale",
    "relative_scale",
)
_SEEDS, _STEPS = 2, 6
_NARROW = 32
_BATCH_TOKENS, _BATCH_EXAMPLES = 256, 32


def quick_check(config: RunConfig, *, should_stop: Callable[[], bool] = lambda: False) -> CoordinateCheck:
    """Check whether a config's model is in µP at all, in seconds.

    The base width is halved towards 32 as far as the model allows, and the widths are that times 1, 2, 4, 8. Batches
    are small, and the lr is at most 1e-3 (SGD: 0.1). Slopes may be up to 0.25; readouts and attention logits may change
    like width^-1/2. It catches the same broken rules as `check_config`, but does not measure finite-width effects at
    the config's own widths. Config `sp` fails, as it should.

    Raises:
        DataError: the data cannot be used.
        Interrupted: `should_stop` said so.
    """
    narrow = _narrowed(config)
    seq_len = config.data.sequence_length
    most = _BATCH_EXAMPLES if seq_len is None else max(2, _BATCH_TOKENS // seq_len)
    hparams = narrow.hparams
    plain = dict.fromkeys(_MULTIPLIERS, 1.0)  # swept too, and of no concern to the rules
    hparams = hparams.with_values(plain)
    training = narrow.training.model_copy(update={"batch_size": min(most, narrow.training.batch_size)})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # models this narrow run slower on more
    try:
        return check_config(
            narrow.model_copy(update={"training": training, "hparams": hparams}),
            sizes=[narrow.model.base_width * factor for factor in FACTORS],
            seeds=_SEEDS,
            steps=_STEPS,
            threshold=THRESHOLD,
            control=False,
            narrow=True,
            should_stop=should_stop,
        )
    finally:
        torch.set_num_threads(threads)


def _narrowed(config: RunConfig) -> RunConfig:
    """The same with the smallest base width >= 32 that halving gives and the model's other fields allow."""
    section = config.model
    while section.base_width >= 2 * _NARROW and section.base_width % 2 == 0:
        size = section.base_width // 2
        try:
            half = type(section).model_validate({**section.model_dump(), "base_width": size, "width": size})
            if section.foreign:  # which widths it takes is seen when it runs
                try_out(config.model_copy(update={"model": half}))
        except (ValidationError, UsageError):
            break
        section = half
    return config.model_copy(update={"model": section})
