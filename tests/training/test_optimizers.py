"""Which torch optimizer gets what, above all Muon beside AdamW."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mutransfer.config.hparams import Hparams
from mutransfer.parametrization.apply import initialize
from mutransfer.parametrization.roles import plan_for
from mutransfer.training.learner import Learner
from mutransfer.training.optimizers import build_optimizer
from tests.conftest import build

MUON = {"optimizer": "muon", "lr": 0.02, "adam_lr": 0.01, "weight_decay": 0.1}


def groups_by_name(learner):
    return {name: group for group in learner.optimizer.param_groups for name in group["names"]}


def test_muon_takes_hidden_matrices_and_adamw_the_rest(gpt):
    learner = Learner(build(gpt, hparams=MUON, model__width=32), torch.device("cpu"))
    groups = groups_by_name(learner)
    assert set(groups) == set(dict(learner.model.named_parameters()))
    for name, group in groups.items():
        is_hidden = name.startswith("blocks.")
        assert ("ns_steps" in group) == is_hidden, name
        assert group["lr"] == (0.02 if is_hidden else 0.01), name


def test_muon_at_base_width_is_torchs_own(gpt):
    config = build(gpt, hparams={**MUON, "schedule": "constant", "warmup": 0.0})
    learner = Learner(config, torch.device("cpu"))
    twin = Learner(config, torch.device("cpu"))
    parameters = dict(twin.model.named_parameters())
    hidden = [parameter for name, parameter in parameters.items() if name.startswith("blocks.")]
    others = [parameter for name, parameter in parameters.items() if not name.startswith("blocks.")]
    plain = [
        torch.optim.Muon(hidden, lr=0.02, momentum=0.95, weight_decay=0.1),
        torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, fused=True),
    ]
    tokens = torch.randint(0, 256, (4, 17), generator=torch.Generator().manual_seed(0)).numpy()
    batch = tokens[:, :-1], tokens[:, 1:]
    for step in range(3):
        learner.train_step(step, batch)
        for optimizer in plain:
            optimizer.zero_grad()
        twin._loss(batch, train=True).backward()
        for optimizer in plain:
            optimizer.step()
    for name, parameter in learner.model.named_parameters():
        assert torch.equal(parameter, parameters[name]), name


class Rectangular(nn.Module):
    """A hidden weight whose fan-out grows four times as fast as its fan-in."""

    def __init__(self, width: int, power: int) -> None:
        super().__init__()
        self.first = nn.Linear(3, width, bias=False)
        self.hidden = nn.Linear(width, 16 * (width // 16) ** power, bias=False)
        self.readout = nn.Linear(16 * (width // 16) ** power, 2, bias=False)

    def forward(self, x):
        return self.readout(self.hidden(self.first(x)))


@pytest.mark.parametrize("power", [1, 2])
def test_muons_update_has_the_spectral_size_that_the_rule_says(power):
    """√(fan_out/fan_in) relative to base, however torch itself adjusts for rows and columns."""
    sizes = {}
    for width in (16, 64):
        plan = plan_for(lambda size: Rectangular(size, power), width=width, base_width=16, optimizer="muon")
        model = Rectangular(width, power)
        initialize(model, plan)
        optimizer = build_optimizer(model, plan, Hparams(optimizer="muon", lr=0.1))
        before = model.hidden.weight.detach().clone()
        model.hidden.weight.grad = torch.randn(before.shape, generator=torch.Generator().manual_seed(0))
        model.first.weight.grad = torch.zeros_like(model.first.weight)
        optimizer.step()
        sizes[width] = float(torch.linalg.matrix_norm(model.hidden.weight.detach() - before, 2))
    expected = 2.0 if power == 2 else 1.0  # √(16/4)
    assert sizes[64] / sizes[16] == pytest.approx(expected, rel=0.2)  # Newton-Schulz leaves 0.7 to 1.2


def test_muon_resumes_exactly(gpt):
    config = build(gpt, hparams=MUON)
    tokens = torch.randint(0, 256, (4, 17), generator=torch.Generator().manual_seed(0)).numpy()
    batch = tokens[:, :-1], tokens[:, 1:]
    first = Learner(config, torch.device("cpu"))
    for step in range(3):
        first.train_step(step, batch)
    state = copy.deepcopy(first.state_dict())  # loading shares tensors
    second = Learner(config, torch.device("cpu"))
    second.load_state_dict(state)
    assert torch.equal(first.train_step(3, batch), second.train_step(3, batch))
    assert torch.equal(first.train_step(4, batch), second.train_step(4, batch))
