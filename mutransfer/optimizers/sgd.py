"""SGD with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mutransfer.optimizers.base import Optimizer, of_torch

if TYPE_CHECKING:
    from torch import Tensor

    from mutransfer.optimizers.stacked import Stacked


def _update(pack: Stacked, grads: Mapping[str, Tensor]) -> None:
    """The arithmetic of torch.optim.SGD in its order: coupled decay, and momentum without dampening."""
    from mutransfer.optimizers.stacked import against

    momentum = pack.hparams["momentum"]
    for name, grad in grads.items():
        parameter, change = pack.parameters[name], grad
        if any(pack.decay[name].values):
            change = change + parameter * pack.decay[name].over(parameter)
        if any(momentum.values):
            average = pack.state("momentum", name)
            change = average.mul_(momentum.over(average)).add_(change)
        parameter.addcmul_(change, against(pack.lr(name), parameter), value=-1)


SGD = Optimizer(
    name="sgd",
    family="sgd",
    build=of_torch("SGD"),
    own_hparams={"momentum": 0.9},
    copies=3,
    most_lr=0.1,
    weight_decay="coupled",
    pack=_update,
)
