"""Faults as µP users make them, planted in plans: what the coordinate check has to catch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from mutransfer.parametrization.plan import Plan, Scaling
from mutransfer.training import learner
from mutransfer.verification import subject

Change = Callable[[Scaling], Scaling]


def in_role(role: str, change: Change) -> Callable[[Plan], Plan]:
    """Change the scaling of every parameter of a role."""

    def changed(plan: Plan) -> Plan:
        parameters = {name: change(one) if one.role == role else one for name, one in plan.parameters.items()}
        return replace(plan, parameters=parameters)

    return changed


def root_attention(plan: Plan) -> Plan:
    """1/√head_dim: as µP's scale at base width, times √(how much heads have grown)."""
    scales = {name: math.sqrt(scale * plan.base_attention[name]) for name, scale in plan.attention.items()}
    return replace(plan, attention=scales)


def _std(one: Scaling, factor: float) -> Scaling:
    return replace(one, init_std=None if one.init_std is None else one.init_std * factor)


FAULTS: dict[str, Callable[[Plan], Plan]] = {
    "readout multiplier missing": in_role("output", lambda one: replace(one, forward=1.0)),
    "readout multiplier applied twice": in_role("output", lambda one: replace(one, forward=one.forward**2)),
    "readout lr divided as well": in_role("output", lambda one: replace(one, lr=one.lr / one.m_in)),
    "hidden lr not divided": in_role("hidden", lambda one: replace(one, lr=one.lr * one.m_in)),
    "hidden lr divided twice": in_role("hidden", lambda one: replace(one, lr=one.lr / one.m_in)),
    "hidden init not divided": in_role("hidden", lambda one: _std(one, math.sqrt(one.m_in))),
    "embedding lr treated as hidden": in_role("input", lambda one: replace(one, lr=one.lr / one.m_out)),
    "embedding init treated as hidden": in_role("input", lambda one: _std(one, 1 / math.sqrt(one.m_out))),
    "attention 1/√d": root_attention,
}


@dataclass(frozen=True)
class Planted:
    """Plants faults in every plan that the check's models are made with."""

    monkeypatch: pytest.MonkeyPatch

    def __call__(self, name: str) -> None:
        fault, plan_of, plan_for = FAULTS[name], learner.plan_of, subject.plan_for
        self.monkeypatch.setattr(learner, "plan_of", lambda config: fault(plan_of(config)))
        self.monkeypatch.setattr(subject, "plan_for", lambda *args, **options: fault(plan_for(*args, **options)))


class Net(nn.Module):
    """tokens (B, S) → logits (B, S, 16), with a bottleneck that may be meant."""

    def __init__(self, width: int, *, inner: int | None = None) -> None:
        super().__init__()
        inner = 2 * width if inner is None else inner
        self.embedding = nn.Embedding(16, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.readout = nn.Linear(width, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = x + self.down(torch.relu(self.up(x)))
        logits: Tensor = self.readout(x)
        return logits
