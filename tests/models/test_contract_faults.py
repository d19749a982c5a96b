"""The models' contract notices what it is there for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mutransfer.models.mlp import MLP
from mutransfer.parametrization import rules
from mutransfer.parametrization.rules import Power, Rule
from mutransfer.testing.models import ModelCase, ModelContract, maker
from tests.models.test_contract import CASES


def wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The readout's multiplier is left out."""
    monkeypatch.setitem(rules.RULES["mup"], "output", Rule(sgd_lr=Power(m_in=1)))


def not_one_at_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that is not 1 at base width."""
    monkeypatch.setattr(Power, "at", lambda self, m_in, m_out: 1.0 + bool(self.m_in and self.m_in < 0))


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that computes with none of its weights."""
    monkeypatch.setattr(MLP, "forward", lambda self, x: self.readout.bias + 0 * x.flatten(1)[:, :1])


def remembering(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that puts into its state what is no parameter and no buffer of the module as it is built."""
    forward = MLP.forward

    def forward_and_keep(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        self.register_buffer("last", x.detach().mean())
        return forward(self, x)  # type: ignore[arg-type]

    monkeypatch.setattr(MLP, "forward", forward_and_keep)


def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fault: the control."""


WRONG = replace(CASES["mlp"], roles={**CASES["mlp"].roles, "layers.1.weight": "input"})
DEAD = replace(CASES["mlp"], changes={"activation": {"activation": "relu"}})
POSSIBLE = replace(CASES["mlp"], refused=(({"depth": 3}, "depth"),))


@pytest.mark.parametrize(
    ("case", "plant", "check"),
    [
        (WRONG, nothing, "test_roles_are_as_expected"),
        (DEAD, nothing, "test_every_field_changes_the_run"),
        (POSSIBLE, nothing, "test_what_is_no_possible_model_or_does_nothing_is_refused"),
        (CASES["mlp"], wrong_rule, "test_the_coordinate_check_passes_and_sp_fails_it"),
        (CASES["mlp"], not_one_at_base, "test_mup_is_the_standard_parametrization_at_base_width_and_not_above"),
        (CASES["mlp"], blind, "test_every_scale_among_the_hparams_is_alive_or_refused"),
        (CASES["mlp"], remembering, "test_its_state_is_plain_and_loads_without_unpickling"),
    ],
    ids=lambda one: getattr(one, "__name__", one if isinstance(one, str) else ""),
)
def test_the_contract_notices(
    case: ModelCase,
    plant: Callable[[pytest.MonkeyPatch], None],
    check: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    method = getattr(ModelContract(), check)
    given = {"case": case, "make": maker(case, tmp_path), "wide": {"width": 32}}
    arguments = {name: given[name] for name in inspect.signature(method).parameters}
    if plant is not nothing:
        method(**arguments)
        plant(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        method(**arguments)
