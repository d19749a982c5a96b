"""Stacked parameters of the members of a pack, with every member's own numbers and state.

Shapes: N members; a stacked parameter is (N, …).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class PerMember:
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
        """`change` of it, in a shape that broadcasts over a stacked tensor (N, …)."""
        return change(self.values[0]) if self.same else against(change(self.tensor), tensor)

    def keep(self, members: Sequence[int]) -> PerMember:
        """The numbers of these members."""
        return PerMember([self.values[index] for index in members], self.like)


def against(values: Tensor, tensor: Tensor) -> Tensor:
    """Values (N,) in a shape that broadcasts over a stacked tensor (N, …)."""
    return values.view(-1, *[1] * (tensor.dim() - 1))


class Stacked:
    """Parameters, numbers and state of a pack; `update` is the optimizer's arithmetic over them."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        update: Callable[[Stacked, Mapping[str, Tensor]], None],
        *,
        numbers: Callable[[str, str], Sequence[float]],
        hparams: Mapping[str, Sequence[float]],
    ) -> None:
        """Take up stacked parameters.

        Args:
            parameters: `{name: (N, …)}`, updated in place.
            numbers: called with a parameter's name and `lr`, `weight_decay` or `eps`; gives every member's value.
            hparams: `{beta1, beta2 or momentum: every member's value}`.
        """
        self.parameters, self._update = parameters, update
        like = next(iter(parameters.values()))

        def gather(field: str) -> dict[str, PerMember]:
            return {name: PerMember(numbers(name, field), like) for name in parameters}

        self._lr, self.decay, self.eps = gather("lr"), gather("weight_decay"), gather("eps")
        self.hparams = {name: PerMember(values, like) for name, values in hparams.items()}
        self.steps = 0
        """Updates so far, the present one included."""
        self._state: dict[str, dict[str, Tensor]] = {}

    def step(self, grads: Mapping[str, Tensor], factors: Sequence[float]) -> None:
        """One update in place; `factors` are the members' schedules at this step."""
        self.steps += 1
        now = PerMember(factors, next(iter(self.parameters.values())))
        self._factor: float | Tensor = now.values[0] if now.same else now.tensor
        self._lrs: dict[tuple[float, ...], Tensor] = {}
        self._update(self, grads)

    def keep(self, members: Sequence[int], parameters: Mapping[str, Tensor]) -> None:
        """Go on with these members only, whose stacked parameters are `parameters`."""
        self.parameters = parameters
        for numbers in (self._lr, self.decay, self.eps, self.hparams):
            numbers.update({name: own.keep(members) for name, own in numbers.items()})
        index = torch.tensor(members, device=next(iter(parameters.values())).device)
        self._state = {
            kind: {name: tensor.index_select(0, index) for name, tensor in own.items()}
            for kind, own in self._state.items()
        }

    def lr(self, name: str) -> Tensor:
        """lr (N,) of a parameter at this step; equal ones are computed once."""
        own = self._lr[name]
        key = tuple(own.values)
        if key not in self._lrs:
            self._lrs[key] = own.tensor * self._factor
        return self._lrs[key]

    def state(self, kind: str, name: str) -> Tensor:
        """State of a parameter, which starts at zero."""
        own = self._state.setdefault(kind, {})
        if name not in own:
            own[name] = torch.zeros_like(self.parameters[name])
        return own[name]
