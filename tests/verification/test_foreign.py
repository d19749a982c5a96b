"""Right models of other people that a check by slopes alone would fail, and wrong ones that it would let pass."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mutransfer.verification import CoordinateCheck, coordinate_check
from mutransfer.verification.reason import Cause

BASE, WIDTHS, TOKENS = 32, [32, 64, 128, 256], 16


def check(factory: Any, inputs: Tensor, targets: Tensor, **options: Any) -> CoordinateCheck:
    settings = {"base_width": BASE, "widths": WIDTHS, "lr": 4e-3, "seeds": 2, "control": False, **options}
    return coordinate_check(factory, inputs=inputs, targets=targets, **settings)


def tokens(seed: int = 0) -> tuple[Tensor, Tensor]:
    drawn = torch.randint(0, TOKENS, (8, 13), generator=torch.Generator().manual_seed(seed))
    return drawn[:, :-1], drawn[:, 1:]


class Attention(nn.Module):
    """Queries, keys and values in one matrix; `heads` that widen, or heads of size 16."""

    def __init__(self, width: int, *, heads: int | None, power: float, alibi: bool) -> None:
        super().__init__()
        self.heads, self.alibi = heads or width // 16, alibi
        self.size = width // self.heads
        base_size = BASE // self.heads if heads else 16
        self.scale = base_size**-0.5 * (self.size / base_size) ** power
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        logits = q @ k.mT * self.scale
        if self.alibi:
            slopes = 2.0 ** (-8 * torch.arange(1, self.heads + 1) / self.heads)
            distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]
            logits = logits + slopes[:, None, None] * distance
        weights = logits.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -math.inf).softmax(-1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return mixed


class Net(nn.Module):
    def __init__(
        self, width: int, *, heads: int | None = None, power: float = -1.0, alibi: bool = False, noise: bool = False
    ) -> None:
        super().__init__()
        self.embedding: nn.Module = nn.Linear(16, width) if noise else nn.Embedding(TOKENS, width)
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads=heads, power=power, alibi=alibi)
        self.readout = nn.Linear(width, TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        logits: Tensor = self.readout(x + self.attention(self.norm(x)))
        return logits


def test_fused_queries_and_keys_of_heads_that_widen_pass_under_the_right_scale():
    found = check(partial(Net, heads=2), *tokens())
    assert found.outcome == "passed", found.sentence
    (logits,) = (one for one in found.modules if one.kind == "attention logits")
    assert logits.change is not None
    assert logits.change.value < -0.1  # queries and keys that do not start at zero: a slope by itself would not do


@pytest.mark.parametrize("noise", [True, False])
def test_heads_that_widen_under_one_over_root_d_fail_whatever_the_data(noise):
    inputs, targets = tokens()
    if noise:
        inputs = torch.randn(8, 12, 16, generator=torch.Generator().manual_seed(1))
    found = check(partial(Net, heads=2, power=-0.5, noise=noise), inputs, targets)
    assert (found.outcome, found.culprit) == ("failed", "attention.attention_logits")
    assert found.cause is not None
    assert found.cause.cause == Cause.ATTENTION_ROOT
    assert "has to shrink like width^-0.5 where heads widen" in found.sentence


def test_a_scale_that_is_applied_twice_fails():
    found = check(partial(Net, heads=2, power=-2.0), *tokens())
    assert (found.outcome, found.culprit) == ("failed", "attention.attention_logits")
    assert "is it applied twice?" in str(found.hint)


def test_position_biases_that_differ_between_numbers_of_heads_are_no_growth_of_the_logits():
    found = check(partial(Net, alibi=True), *tokens())
    assert found.outcome == "passed", found.sentence


def autoencoder(width: int, *, power: float = 0.0) -> nn.Module:
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (width / BASE) ** power

    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 8), nn.Linear(8, width), Scaled(), nn.ReLU(),
        nn.Linear(width, 64),
    )  # fmt: skip


def images() -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(64, 8, generator=draw) @ torch.randn(8, 64, generator=draw)


@pytest.mark.parametrize("role", ["output", "hidden"])
def test_what_lies_behind_a_bottleneck_may_fade_with_it(role):
    options = {"plan_options": {"roles": {"2.weight": role}}, "finite": ["2"], "loss": nn.functional.mse_loss}
    found = check(autoencoder, images(), images(), lr=1e-3, **options)
    assert found.outcome == "passed", found.sentence
    behind = next(one for one in found.modules if one.module == "3")
    assert behind.size is not None
    assert behind.size.value == pytest.approx(-0.5, abs=0.1)
    # The control: a factor of its own behind the bottleneck is still seen.
    wrong = check(partial(autoencoder, power=-0.5), images(), images(), lr=1e-3, **options)
    assert (wrong.outcome, wrong.culprit) == ("failed", "4")


class Experts(nn.Module):
    """One of 16 experts for each token, so that some get none, and others at another step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.router = nn.Embedding(TOKENS, width), nn.Linear(width, 16, bias=False)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(16))
        self.readout = nn.Linear(width, TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x).flatten(0, 1)
        weight, best = self.router(x).softmax(-1).max(-1)
        mixed = torch.zeros_like(x)
        for at, expert in enumerate(self.experts):
            mixed[best == at] = expert(x[best == at]) * weight[best == at, None]
        logits: Tensor = self.readout(x + mixed)
        return logits.view(8, 12, TOKENS)


def test_experts_without_tokens_are_not_judged():
    found = check(Experts, *tokens(), plan_options={"roles": {"router.weight": "output"}}, finite=["router"])
    assert found.outcome == "passed", found.sentence
    judged = {one.module for one in found.modules}
    assert {"embedding", "router", "readout"} <= judged
    assert not {f"experts.{at}" for at in range(16)} <= judged
    assert any("got no input" in warning for warning in found.warnings)


def test_a_hint_does_not_blame_an_lr_or_std_that_follows_the_plan():
    class Shrinks(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.second, self.readout = nn.Linear(64, width), nn.Linear(width, width), nn.Linear(width, 4)
            self.factor = (width / BASE) ** -1.0

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.readout(torch.relu(self.second(self.first(x) * self.factor)))
            return logits

    found = check(Shrinks, images(), torch.arange(64) % 4)
    assert (found.outcome, found.culprit) == ("failed", "second")
    assert found.cause is not None
    assert found.cause.cause == Cause.GIVEN_INPUT
