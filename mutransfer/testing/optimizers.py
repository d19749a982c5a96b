"""What every optimizer has to keep. Inherit, and give the fixture `name`, under which the optimizer is registered.

class TestMyOptimizer(OptimizerContract):
    @pytest.fixture
    def name(self): return "mine"
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from mutransfer.config.hparams import OPTIMIZER_HPARAMS, Hparams
from mutransfer.optimizers import OPTIMIZERS
from mutransfer.parametrization.plan import Plan
from mutransfer.parametrization.roles import plan_for
from mutransfer.training.optimizers import build_optimizer, set_lr
from mutransfer.training.pack_optimizers import pack_optimizer

_CHANGED = {"beta1": 0.5, "beta2": 0.6, "momentum": 0.3, "eps": 0.1, "adam_lr": 0.05}


class _Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.hidden, self.last = nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.hidden(self.first(inputs).tanh()).tanh())
        return found


def _start(seed: int = 0) -> tuple[nn.Module, list[list[torch.Tensor]]]:
    """A module and gradients of a few steps."""
    torch.manual_seed(seed)
    model = _Net(16)
    return model, [[torch.randn_like(one) for one in model.parameters()] for _ in range(4)]


def _train(model: nn.Module, optimizer: Any, gradients: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    for step in gradients:
        for parameter, gradient in zip(model.parameters(), step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [one.detach().clone() for one in model.parameters()]


def _alike(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class OptimizerContract:
    """The suite."""

    @pytest.fixture
    def plan(self, name: str) -> Plan:
        """At twice the base width, so that groups differ."""
        return plan_for(_Net, width=16, base_width=8, optimizer=name)

    @staticmethod
    def hparams(name: str, **values: Any) -> Hparams:
        """Values that the optimizer reads."""
        decay = {} if OPTIMIZERS.load(name).weight_decay == "refused" else {"weight_decay": 0.1}
        return Hparams.model_validate({"optimizer": name, "lr": 0.01, **decay, **values})

    def test_declares_hparams_that_exist(self, name: str) -> None:
        assert set(OPTIMIZERS.load(name).hparams) <= set(OPTIMIZER_HPARAMS)

    def test_groups_keep_their_own_lr_and_the_schedule_multiplies_it(self, name: str, plan: Plan) -> None:
        model, _ = _start()
        optimizer = build_optimizer(model, plan, self.hparams(name))
        peaks = [group["lr"] for group in optimizer.param_groups]
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        assert len(set(peaks)) > 1
        set_lr(optimizer, 0.25)
        assert [group["lr"] for group in optimizer.param_groups] == [0.25 * peak for peak in peaks]
        assert [group["weight_decay"] for group in optimizer.param_groups] == decays

    def test_state_survives_a_checkpoint(self, name: str, plan: Plan) -> None:
        model, gradients = _start()
        optimizer = build_optimizer(model, plan, self.hparams(name))
        _train(model, optimizer, gradients[:2])
        twin, state = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
        resumed = build_optimizer(twin, plan, self.hparams(name))
        resumed.load_state_dict(state)
        assert _alike(_train(model, optimizer, gradients[2:]), _train(twin, resumed, gradients[2:]))

    def test_every_hparam_has_an_effect(self, name: str, plan: Plan) -> None:
        def weights(**values: Any) -> list[torch.Tensor]:
            model, gradients = _start()
            return _train(model, build_optimizer(model, plan, self.hparams(name, **values)), gradients)

        plain = weights()
        assert _alike(plain, weights())
        for field in OPTIMIZERS.load(name).hparams:
            assert not _alike(plain, weights(**{field: _CHANGED[field]})), field
        if OPTIMIZERS.load(name).weight_decay != "refused":
            assert not _alike(plain, weights(weight_decay=0.0))

    def test_weights_of_a_group_without_lr_stay(self, name: str, plan: Plan) -> None:
        model, gradients = _start()
        before = [one.detach().clone() for one in model.parameters()]
        optimizer = build_optimizer(model, plan, self.hparams(name))
        set_lr(optimizer, 0.0)
        assert _alike(before, _train(model, optimizer, gradients))

    def test_members_of_a_pack_train_as_alone(self, name: str, plan: Plan) -> None:
        if OPTIMIZERS.load(name).pack is None:
            pytest.skip("the optimizer has no update for packs")
        model, gradients = _start()
        members = [self.hparams(name), self.hparams(name, lr=0.02)]
        names = [key for key, _ in model.named_parameters()]
        stacked = {key: torch.stack([one.detach()] * 2) for key, one in model.named_parameters()}
        pack = pack_optimizer(model, stacked, plan, members)
        for step in gradients:
            pack.step({key: torch.stack([own] * 2) for key, own in zip(names, step, strict=True)}, [1.0, 1.0])
        for index, hparams in enumerate(members):
            alone = copy.deepcopy(model)
            for key, own in zip(names, _train(alone, build_optimizer(alone, plan, hparams), gradients), strict=True):
                torch.testing.assert_close(stacked[key][index], own, rtol=1e-4, atol=1e-5)
