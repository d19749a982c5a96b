"""Rewording a sentence changes no outcome: every wording function returns nonsense, and all values stay the same."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import pytest

from mutransfer.verification import CoordinateCheck, check_config, coord_words
from mutransfer.verification.reason import Cause
from tests.conftest import build
from tests.verification.faults import FAULTS, Planted

NONSENSE = "slope like lack not finite change since init is zero passed"


def garble(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == module.__name__:
            monkeypatch.setattr(module, name, lambda *args, **options: NONSENSE)


def check(gpt: dict[str, Any]) -> CoordinateCheck:
    config = build(
        gpt, hparams__lr=4e-3, model__width=32, model__base_width=32, model__head_dim=None, model__heads=2,
        model__zero_readout=False,
    )  # fmt: skip
    return check_config(config, control=False, seeds=1, sizes=[32, 64, 128, 256])


def values(data: Any) -> Any:
    """The JSON without its sentences."""
    if isinstance(data, dict):
        return {key: values(value) for key, value in data.items() if key not in ("sentence", "hint")}
    return [values(one) for one in data] if isinstance(data, list) else data


@pytest.mark.parametrize("fault", FAULTS)
def test_sentences_change_no_hint_and_no_outcome(
    gpt: dict[str, Any], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    Planted(monkeypatch)(fault)
    meant = check(gpt)
    said = meant.as_dict()
    garble(monkeypatch, coord_words)
    garbled = check(gpt)
    assert garbled.sentence == garbled.hint == NONSENSE != said["sentence"]
    assert (garbled.outcome, garbled.culprit, garbled.cause) == (meant.outcome, meant.culprit, meant.cause)
    assert values(garbled.as_dict()) == values(said)
    assert meant.outcome == "failed"
    assert meant.cause is not None


def test_every_cause_has_words() -> None:
    special = {Cause.CONTROL, Cause.SMALL_SLOPE, Cause.FIXED_SIZE}
    assert set(coord_words._CAUSES) == set(Cause) - special
