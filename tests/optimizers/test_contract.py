"""Every built-in optimizer, and one of another package, keep the contract; a class of the user's own works by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mutransfer.config.hparams import Hparams
from mutransfer.optimizers import BUILT_IN, OPTIMIZERS
from mutransfer.testing.optimizers import OptimizerContract
from mutransfer.training.pack import CannotPack, PackLearner
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
        (OWN | {"arguments": {"nesterov": True}}, {}, "has no parameter of that name; it takes"),
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
