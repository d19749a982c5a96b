"""SGD, Adam, AdamW and Muon over stacked parameters, every member with its own lr, decay, ε, betas and momentum.

Shapes: N members; a stacked parameter is (N, …). The arithmetic is torch.optim's, in its order, so that a member's
weights equal those of its solo run up to rounding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mutransfer.config.hparams import Hparams
from mutransfer.parametrization.plan import Plan
from mutransfer.parametrization.settings import settings
from mutransfer.training.optimizers import Together, optimizer_over, peaked_groups

Stacked = Mapping[str, Tensor]


class PackOptimizer(Protocol):
    """What a pack asks of an optimizer."""

    def step(self, grads: Stacked, factors: Sequence[float]) -> None:
        """One update in place; `factors` are the members' schedules at this step."""

    def keep(self, members: Sequence[int], parameters: Stacked) -> None:
        """Go on with these members only, whose stacked parameters are `parameters`."""


def pack_optimizer(template: nn.Module, parameters: Stacked, plan: Plan, members: Sequence[Hparams]) -> PackOptimizer:
    """The optimizer of members that differ in hparams only.

    Args:
        template: a module with the parameters' names and shapes; its values are not read.
    """
    kind = members[0].optimizer
    if kind == "muon":
        return _Sliced(template, parameters, plan, members)
    return (_SGD if kind == "sgd" else _Adam)(parameters, plan, members)


class _PerMember:
    """A number per member: a plain float while all agree, which spares torch a pass or a broadcast."""

    def __init__(self, values: Sequence[float], like: Tensor) -> None:
        self.values, self.like = list(values), like
        self.same = len(set(self.values)) == 1

    @functools.cached_property
    def tensor(self) -> Tensor:
        """(N,); copied to a GPU without waiting for it."""
        values = torch.tensor(self.values, dtype=self.like.dtype)
        if self.like.is_cuda:
            values = values.pin_memory()
        return values.to(self.like.device, non_blocking=True)

    def over(self, tensor: Tensor, change: Callable[[Any], Any] = lambda value: value) -> Any:
        """`change` of it, ready to meet a stacked tensor (N, …)."""
        return change(self.values[0]) if self.same else _against(change(self.tensor), tensor)

    def keep(self, members: Sequence[int]) -> _PerMember:
        """The numbers of these members."""
        return _PerMember([self.values[index] for index in members], self.like)


def _against(values: Tensor, tensor: Tensor) -> Tensor:
    return values.view(-1, *[1] * (tensor.dim() - 1))


class _Stacked:
    """What SGD and Adam share: settings per parameter and member, and state that is stacked too."""

    def __init__(self, parameters: Stacked, plan: Plan, members: Sequence[Hparams]) -> None:
        self._parameters = parameters
        like = next(iter(parameters.values()))
        numbers = [settings(plan, hparams).optimizer for hparams in members]

        def gather(name: str, field: str) -> _PerMember:
            return _PerMember([getattr(own[name], field) or 0.0 for own in numbers], like)

        self._lr = {name: gather(name, "lr") for name in parameters}
        self._decay = {name: gather(name, "weight_decay") for name in parameters}
        self._eps = {name: gather(name, "eps") for name in parameters}
        self._hparams = {
            field: _PerMember([hparams.resolved(field) for hparams in members], like)
            for field in ("beta1", "beta2", "momentum")
            if members[0].resolved(field) is not None
        }
        self._state: dict[str, dict[str, Tensor]] = {}
        self._steps = 0

    def keep(self, members: Sequence[int], parameters: Stacked) -> None:
        """See `PackOptimizer`."""
        self._parameters = parameters
        for numbers in (self._lr, self._decay, self._eps, self._hparams):
            numbers.update({name: own.keep(members) for name, own in numbers.items()})
        index = torch.tensor(members, device=next(iter(parameters.values())).device)
        self._state = {
            kind: {name: tensor.index_select(0, index) for name, tensor in own.items()}
            for kind, own in self._state.items()
        }

    def _lrs(self, factors: Sequence[float]) -> Callable[[str], Tensor]:
        """lr (N,) by parameter name; equal ones are computed once."""
        factors_now = _PerMember(factors, next(iter(self._parameters.values())))
        factor = factors_now.values[0] if factors_now.same else factors_now.tensor
        found: dict[tuple[float, ...], Tensor] = {}

        def lr(name: str) -> Tensor:
            own = self._lr[name]
            key = tuple(own.values)
            if key not in found:
                found[key] = own.tensor * factor
            return found[key]

        return lr

    def _zeros(self, kind: str, name: str) -> Tensor:
        own = self._state.setdefault(kind, {})
        if name not in own:
            own[name] = torch.zeros_like(self._parameters[name])
        return own[name]


class _SGD(_Stacked):
    """torch.optim.SGD with coupled decay and momentum without dampening."""

    def step(self, grads: Stacked, factors: Sequence[float]) -> None:
        """See `PackOptimizer`."""
        lr, momentum = self._lrs(factors), self._hparams["momentum"]
        for name, grad in grads.items():
            parameter = self._parameters[name]
            change = grad
            if any(self._decay[name].values):
                change = change + parameter * self._decay[name].over(parameter)
            if any(momentum.values):
                average = self._zeros("momentum", name)
                change = average.mul_(momentum.over(average)).add_(change)
            parameter.addcmul_(change, _against(lr(name), parameter), value=-1)


class _Adam(_Stacked):
    """torch.optim.AdamW, and torch.optim.Adam, whose coupled decay is refused by the plan."""

    def step(self, grads: Stacked, factors: Sequence[float]) -> None:
        """See `PackOptimizer`."""
        self._steps += 1
        lr, beta1, beta2 = self._lrs(factors), self._hparams["beta1"], self._hparams["beta2"]
        first, second = self._correction(beta1, root=False), self._correction(beta2, root=True)
        for name, grad in grads.items():
            parameter = self._parameters[name]
            mean, square = self._zeros("mean", name), self._zeros("square", name)
            own_lr = lr(name)
            if any(self._decay[name].values):
                parameter.mul_(_against(1 - own_lr * self._decay[name].tensor, parameter))
            mean.lerp_(grad, beta1.over(grad, lambda beta: 1 - beta))
            if beta2.same:
                square.mul_(beta2.values[0]).addcmul_(grad, grad, value=1 - beta2.values[0])
            else:
                square.mul_(beta2.over(square)).addcmul_(grad, grad * beta2.over(grad, lambda beta: 1 - beta))
            root = square.sqrt()
            root.div_(second.over(root)).add_(self._eps[name].over(root))
            size = _against(own_lr, parameter) / first.over(parameter)
            parameter.addcmul_(torch.div(mean, root, out=root), size, value=-1)

    def _correction(self, beta: _PerMember, *, root: bool) -> _PerMember:
        """1 - β^steps, or its root, computed on the host in double precision."""
        values = [1 - value**self._steps for value in beta.values]
        return _PerMember([math.sqrt(value) if root else value for value in values], beta.like)


class _Sliced:
    """torch's own optimizer over every member's slices, for updates that are no elementwise arithmetic (Muon)."""

    def __init__(self, template: nn.Module, parameters: Stacked, plan: Plan, members: Sequence[Hparams]) -> None:
        self._template, self._plan, self._members = template, plan, list(members)
        self._build(parameters)

    def step(self, grads: Stacked, factors: Sequence[float]) -> None:
        """See `PackOptimizer`."""
        for (name, index), own in self._slices.items():
            own.grad = grads[name][index].contiguous()  # torch's fused updates take the memory as it lies
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factors[group["member"]]
        self._optimizer.step()

    def keep(self, members: Sequence[int], parameters: Stacked) -> None:
        """See `PackOptimizer`."""
        old = self._slices
        states = {own: state for part in self._parts() for own, state in part.state.items()}
        self._members = [self._members[index] for index in members]
        self._build(parameters)
        before = {own: states[old[name, members[index]]] for (name, index), own in self._slices.items()}
        for part in self._parts():
            part.state.update({own: before[own] for group in part.param_groups for own in group["params"]})

    def _parts(self) -> tuple[torch.optim.Optimizer, ...]:
        return self._optimizer.parts if isinstance(self._optimizer, Together) else (self._optimizer,)

    def _build(self, parameters: Stacked) -> None:
        self._slices: dict[tuple[str, int], Tensor] = {}
        groups = []
        for index, hparams in enumerate(self._members):
            for group in peaked_groups(self._template, self._plan, hparams):
                own = {(name, index): parameters[name].detach()[index] for name in group["names"]}
                self._slices.update(own)
                groups.append({**group, "params": list(own.values()), "member": index})
        self._optimizer = optimizer_over(self._members[0].optimizer, groups)
