"""AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mutransfer.optimizers.base import Optimizer, of_torch

if TYPE_CHECKING:
    from torch import Tensor

    from mutransfer.optimizers.stacked import PerMember, Stacked


def update(pack: Stacked, grads: Mapping[str, Tensor]) -> None:
    """The arithmetic of torch.optim.AdamW in its order, so that a member's weights are those of its solo run."""
    import torch

    from mutransfer.optimizers.stacked import against

    beta1, beta2 = pack.hparams["beta1"], pack.hparams["beta2"]
    first, second = _correction(beta1, pack.steps, root=False), _correction(beta2, pack.steps, root=True)
    for name, grad in grads.items():
        parameter = pack.parameters[name]
        mean, square = pack.state("mean", name), pack.state("square", name)
        lr = pack.lr(name)
        if any(pack.decay[name].values):
            parameter.mul_(against(1 - lr * pack.decay[name].tensor, parameter))
        mean.lerp_(grad, beta1.over(grad, lambda beta: 1 - beta))
        if beta2.same:
            square.mul_(beta2.values[0]).addcmul_(grad, grad, value=1 - beta2.values[0])
        else:
            square.mul_(beta2.over(square)).addcmul_(grad, grad * beta2.over(grad, lambda beta: 1 - beta))
        root = square.sqrt()
        root.div_(second.over(root)).add_(pack.eps[name].over(root))
        size = against(lr, parameter) / first.over(parameter)
        parameter.addcmul_(torch.div(mean, root, out=root), size, value=-1)


def _correction(beta: PerMember, steps: int, *, root: bool) -> PerMember:
    """1 - β^steps, or its root, computed on the host in double precision."""
    values = [1 - value**steps for value in beta.values]
    return type(beta)([math.sqrt(value) if root else value for value in values], beta.like)


ADAMW = Optimizer(
    name="adamw",
    family="adam",
    build=of_torch("AdamW"),
    own_hparams={"beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
    copies=4,
    most_lr=1e-3,
    pack=update,
)
