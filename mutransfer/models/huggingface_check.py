"""Whether a model of the transformers library, as it is trained here, is the function that its family defines."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mutransfer.config.data import ClassSpec, PairSpec
from mutransfer.config.factory import said
from mutransfer.config.schema import RunConfig
from mutransfer.errors import PlanError
from mutransfer.models import build_model
from mutransfer.models.huggingface import make

TOLERANCE = 1e-4
"""Largest difference of logits over their standard deviation; that of fp32 rounding is some 1e-6."""
_EXAMPLES = 2


def require_own_function(config: RunConfig) -> None:
    """Compare the model at the base width with its family's own eager model, which has the same random weights.

    Their logits on random tokens must be equal, and must not depend on later tokens where next tokens are predicted.

    Raises:
        PlanError: they differ, or a token sees later ones.
    """
    section = config.model.at_width(config.model.base_width)
    spec: Any = config.data.spec
    model = build_model(section, spec).eval()
    randomize(model)
    plain = make(copy.deepcopy(model.config), spec.consumed_as, "eager").eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    inputs = random_inputs(spec, _EXAMPLES)
    with torch.no_grad():
        try:
            own, theirs = model(*inputs), plain(*inputs).logits
        except Exception as error:  # any that the family's own code raises
            raise PlanError(f"{section.label}: {type(plain).__name__} cannot be run on {spec.consumed_as}: "
                            f"{said(error)}") from None  # fmt: skip
        difference = distance(own, theirs)
        if not difference < TOLERANCE:
            raise PlanError(
                f"{section.label}: the logits differ from those of the family's own eager model by {difference:.2g} of "
                f"their standard deviation, so another function would be trained ({type(plain).__name__})"
            )
        if spec.consumed_as not in ("tokens", "token pairs"):
            return
        place = own.shape[1] // 2
        changed = inputs[-1].clone()
        changed[:, place] = (changed[:, place] + 1) % own.shape[-1]
        seen = distance(own[:, :place], model(*inputs[:-1], changed)[:, :place]) if place else 0.0
        if not seen < TOLERANCE:
            raise PlanError(
                f"{section.label}: {type(plain).__name__} is not causal: a changed token changes earlier logits by "
                f"{seen:.2g} of their standard deviation, so it cannot be trained to predict next tokens"
            )


def random_inputs(spec: Any, examples: int) -> tuple[Tensor, ...]:
    """A batch of random examples of the data that a spec describes."""
    generator = torch.Generator().manual_seed(0)

    def tokens(vocabulary: int, length: int) -> Tensor:
        return torch.randint(0, vocabulary, (examples, length), generator=generator)

    if isinstance(spec, ClassSpec):
        return (torch.randn(examples, *spec.shape, generator=generator),)
    if isinstance(spec, PairSpec):
        return tokens(spec.source_vocab, spec.source_len), tokens(spec.target_vocab, spec.target_len)
    return (tokens(spec.vocab_size, spec.seq_len),)


def randomize(model: nn.Module) -> None:
    """Weights at which nothing is hidden by zeros or equal gains."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.requires_grad:
                scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def distance(one: Tensor, other: Tensor) -> float:
    """Largest difference over the standard deviation of `other`."""
    return float((one - other).abs().max() / other.std().clamp_min(1e-9))
