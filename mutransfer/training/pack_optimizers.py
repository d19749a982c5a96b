"""The optimizer of a pack: every member with its own lr, decay, ε, betas and momentum.

The optimizers' own arithmetic is torch.optim's, in its order, so that a member's weights equal those of its solo run
up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mutransfer.config.hparams import Hparams
from mutransfer.optimizers.stacked import Stacked
from mutransfer.parametrization.plan import Plan
from mutransfer.parametrization.settings import settings
from mutransfer.training.optimizers import Together, optimizer_over, peaked_groups

NamedTensors = Mapping[str, Tensor]


def pack_optimizer(
    template: nn.Module, parameters: NamedTensors, plan: Plan, members: Sequence[Hparams]
) -> Stacked | _Sliced:
    """The optimizer of members that differ in hparams only.

    Args:
        template: a module with the parameters' names and shapes; its values are not read.
    """
    pack = members[0].record.pack
    if pack == "sliced" or pack is None:
        return _Sliced(template, parameters, plan, members)
    own = [settings(plan, hparams).optimizer for hparams in members]
    return Stacked(
        parameters,
        pack,
        numbers=lambda name, field: [getattr(one[name], field) or 0.0 for one in own],
        hparams={
            field: [hparams.resolved(field) for hparams in members]
            for field in ("beta1", "beta2", "momentum")
            if members[0].resolved(field) is not None
        },
    )


class _Sliced:
    """torch's own optimizer over every member's slices, for updates that are not elementwise."""

    def __init__(self, template: nn.Module, parameters: NamedTensors, plan: Plan, members: Sequence[Hparams]) -> None:
        self._template, self._plan, self._members = template, plan, list(members)
        self._build(parameters)

    def step(self, grads: NamedTensors, factors: Sequence[float]) -> None:
        """One update in place; `factors` are the members' schedules at this step."""
        for (name, index), own in self._slices.items():
            own.grad = grads[name][index].contiguous()  # torch's fused updates take the memory as it lies
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factors[group["member"]]
        self._optimizer.step()

    def keep(self, members: Sequence[int], parameters: NamedTensors) -> None:
        """Go on with these members only, whose stacked parameters are `parameters`."""
        old = self._slices
        states = {own: state for part in self._parts() for own, state in part.state.items()}
        self._members = [self._members[index] for index in members]
        self._build(parameters)
        before = {own: states[old[name, members[index]]] for (name, index), own in self._slices.items()}
        for part in self._parts():
            part.state.update({own: before[own] for group in part.param_groups for own in group["params"]})

    def _parts(self) -> tuple[torch.optim.Optimizer, ...]:
        return self._optimizer.parts if isinstance(self._optimizer, Together) else (self._optimizer,)

    def _build(self, parameters: NamedTensors) -> None:
        self._slices: dict[tuple[str, int], Tensor] = {}
        groups = []
        for index, hparams in enumerate(self._members):
            for group in peaked_groups(self._template, self._plan, hparams):
                own = {(name, index): parameters[name].detach()[index] for name in group["names"]}
                self._slices.update(own)
                groups.append({**group, "params": list(own.values()), "member": index})
        self._optimizer = optimizer_over(self._members[0].record, groups)
