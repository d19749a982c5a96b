"""Every built-in optimizer, and one of another package, keep the contract; a class of the user's own works by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from mutransfer.config.hparams import Hparams
from mutransfer.errors import UsageError
from mutransfer.optimizers import BUILT_IN, OPTIMIZERS
from mutransfer.parametrization.roles import plan_for
from mutransfer.testing.optimizers import OptimizerContract
from mutransfer.training.pack import CannotPack, PackLearner
from mutransfer.verification.coord_check import coordinate_check
from tests.conftest import build

TOY = Path(__file__).parents[1] / "fixtures" / "toy_optimizer"
OWN = {"factory": "toy_optimizer:SignSGD", "family": "adam"}


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.syspath_prepend(str(TOY))
    OPTIMIZERS.__dict__.pop("_plugged_in", None)
    yield
    OPTIMIZERS.__dict__.pop("_plugged_in", None)


class TestOptimizers(OptimizerContract):
    @pytest.fixture(params=[*BUILT_IN, "signsgd"])
    def name(self, request):
        return request.param


def test_a_class_of_ones_own_reads_what_its_signature_says():
    hparams = Hparams.model_validate({"optimizer": OWN, "momentum": 0.7})
    assert hparams.record.hparams == {"momentum": 0.5}
    assert Hparams.model_validate(hparams.model_dump()) == hparams


@pytest.mark.parametrize(
    ("optimizer", "values", "message"),
    [
        (OWN, {"beta1": 0.5}, "has no effect with optimizer toy_optimizer:SignSGD"),
        (OWN | {"factory": "no_such_module:X"}, {}, "there is no module no_such_module"),
        (OWN | {"factory": "toy_optimizer:SignSGB"}, {}, "did you mean SignSGD"),
        (OWN | {"factory": "torch.nn:Linear"}, {}, "is not a class that inherits from torch.optim.Optimizer"),
        (OWN | {"arguments": {"nesterov": True}}, {}, "has no parameter of that name; its parameters are"),
        (OWN | {"arguments": {"momentum": 0.1}}, {}, "is set by an hparam"),
        ("lyon", {}, "did you mean lion"),
    ],
)
def test_what_cannot_work_is_refused(optimizer, values, message):
    with pytest.raises(ValidationError, match=message):
        Hparams.model_validate({"optimizer": optimizer, **values})


def test_a_class_of_ones_own_is_not_packed(mlp):
    config = build(mlp, hparams={"optimizer": OWN, "lr": 0.001})
    with pytest.raises(CannotPack, match="no update for packs"):
        PackLearner([config, config], "cpu")


def test_lion_follows_width_as_adamw_does():
    """Powers of two are exact; a tuned lr of hidden weights falls as 1/m."""
    plans = [plan_for(lambda width: torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, width),
                      torch.nn.Linear(width, 3)), width=64, base_width=16, optimizer=name)
             for name in ("lion", "adamw")]  # fmt: skip
    lion, adamw = ({name: one.lr for name, one in plan.parameters.items()} for plan in plans)
    assert lion == adamw
    assert lion["1.weight"] == 0.25


@pytest.mark.parametrize("optimizer", BUILT_IN)
def test_the_coordinate_check_takes_every_optimizer(optimizer):
    def net(width):
        layers = [torch.nn.Linear(8, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers, torch.nn.Linear(width, 10))

    draw = torch.Generator().manual_seed(0)
    found = coordinate_check(
        net, inputs=torch.randn(64, 8, generator=draw), targets=torch.randint(0, 10, (64,), generator=draw),
        base_width=64, widths=[64, 128, 256, 512], optimizer=optimizer, lr=OPTIMIZERS.load(optimizer).most_lr,
    )  # fmt: skip
    assert found.outcome == "passed"  # which needs sp to fail


def test_the_coordinate_check_refuses_an_unknown_optimizer():
    with pytest.raises(UsageError, match="did you mean lion"):
        coordinate_check(lambda width: torch.nn.Linear(8, width), inputs=torch.zeros(1, 8),
                         targets=torch.zeros(1).long(), base_width=8, optimizer="lyon")  # fmt: skip
