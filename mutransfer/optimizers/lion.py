"""Lion (Chen et al. 2023, arXiv 2302.06675, Algorithm 2): sign of an interpolated momentum, with decoupled decay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mutransfer.optimizers.base import Groups, Optimizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mutransfer.optimizers.stacked import Stacked


def _build(groups: Groups) -> torch.optim.Optimizer:
    import torch

    class Lion(torch.optim.Optimizer):
        """torch has none."""

        @torch.no_grad()
        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            for group in self.param_groups:
                beta1, beta2 = group["betas"]
                for parameter in group["params"]:
                    if (grad := parameter.grad) is None:
                        continue
                    state = self.state[parameter]
                    if not state:
                        state["mean"] = torch.zeros_like(parameter)
                    mean = state["mean"]
                    if group["weight_decay"]:
                        parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(mean.lerp(grad, 1 - beta1).sign_(), alpha=-group["lr"])
                    mean.lerp_(grad, 1 - beta2)
            return loss

    return Lion(groups, {"betas": tuple(LION.hparams.values()), "weight_decay": 0.0})


def _update(pack: Stacked, grads: Mapping[str, Tensor]) -> None:
    """The same for every member at once."""
    from mutransfer.optimizers.stacked import against

    beta1, beta2 = pack.hparams["beta1"], pack.hparams["beta2"]
    for name, grad in grads.items():
        parameter, mean, lr = pack.parameters[name], pack.state("mean", name), pack.lr(name)
        if any(pack.decay[name].values):
            parameter.mul_(against(1 - lr * pack.decay[name].tensor, parameter))
        change = mean.lerp(grad, beta1.over(grad, lambda beta: 1 - beta)).sign_()
        parameter.addcmul_(change, against(lr, parameter), value=-1)
        mean.lerp_(grad, beta2.over(grad, lambda beta: 1 - beta))


LION = Optimizer(
    name="lion",
    family="adam",
    build=_build,
    own_hparams={"beta1": 0.9, "beta2": 0.99},
    copies=3,
    most_lr=1e-3,
    pack=_update,
)
