"""Layers whose weight is computed from other parameters: weight norm (`torch.nn.utils.parametrizations.weight_norm` and
the older `torch.nn.utils.weight_norm`) and spectral norm.

Under weight norm, W = gain · direction / |direction|. The direction has the role of the weight, and the gain keeps the
value that the module gave it. A weight of fan-in n and norm Θ(1) has entries of 1/√n whatever the std of its direction:
that is right for hidden weights, and for readouts leaves a factor of √m_in, see `rules.NORMED_OUTPUT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from torch.nn.utils import parametrize

from mutransfer.errors import PlanError
from mutransfer.parametrization.plan import PARAMETRIZED

WeightPart = Literal["gain", "direction", "spectral"]
_PARTS: Mapping[str, dict[str, WeightPart]] = {
    "_WeightNorm": {"original0": "gain", "original1": "direction"},
    "_SpectralNorm": {"original": "spectral"},
}
_OLD_PARTS: dict[str, WeightPart] = {"weight_g": "gain", "weight_v": "direction"}
_POWER_ITERATIONS = 30


def part_of(
    layers: Mapping[str, nn.Module], owner: str, module: nn.Module, parameter: str
) -> tuple[nn.Module, WeightPart] | None:
    """The layer whose weight a parameter is a part of, and which part; None of all other parameters.

    Args:
        layers: the model's modules by name.
        owner: name of `module`, which has `parameter`.

    Raises:
        PlanError: it is of the older spectral norm.
    """
    if isinstance(module, parametrize.ParametrizationList):
        (kind,) = {type(one).__name__ for one in module} if len(module) == 1 else {""}
        part = _PARTS.get(kind, {}).get(parameter)
        return None if part is None or not owner.endswith(PARAMETRIZED) else (layers[owner[: -len(PARAMETRIZED)]], part)
    if parameter == "weight_orig" and "weight_u" in dict(module.named_buffers(recurse=False)):
        raise PlanError(
            f"{owner}: torch.nn.utils.spectral_norm has no rule here; use torch.nn.utils.parametrizations.spectral_norm"
        )
    if parameter in _OLD_PARTS and _OLD_PARTS.keys() <= dict(module.named_parameters(recurse=False)).keys():
        return module, _OLD_PARTS[parameter]
    return None


def renew_estimates(model: nn.Module) -> None:
    """Let the estimates of spectral norms fit the weights as they are now: they are of the weights before `initialize`,
    and in eval mode nothing else would renew them."""
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList) and type(module[0]).__name__ == "_SpectralNorm":
            was_training = module.training
            module.train()
            with torch.no_grad():
                for _ in range(_POWER_ITERATIONS):
                    module()
            module.train(was_training)
