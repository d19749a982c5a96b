"""Rewording a sentence changes no outcome: every wording function returns nonsense, and all values stay the same."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mutransfer.verification import CoordinateCheck, check_config, coord_words, transfer_words
from mutransfer.verification.reason import Cause
from mutransfer.verification.transfer_json import as_dict
from tests.conftest import build
from tests.verification.faults import FAULTS, Planted
from tests.verification.test_transfer_check import Landscape, grid, still
from tests.verification.test_transfer_check import check as check_transfer

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
        return {key: values(value) for key, value in data.items() if key not in ("sentence", "hint", "words")}
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


def moving(parametrization: str, width: int) -> float:
    """An optimum that moves by an octave per octave of width, in µP too."""
    return -6.3 - math.log2(width / 16)


CASES = {
    "passed": (still, {}, {}),
    "failed": (moving, {}, {}),
    "one seed": (still, {"seeds": 1}, {}),
    "at edge": (lambda *_: -20.0, {}, {}),
    "diverges": (still, {}, {"diverges": lambda config: config["model"]["width"] == 64}),
    "no power": (lambda *_: -6.3, {}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_sentences_of_a_transfer_check_change_no_value(
    gpt: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    place, changes, landscape = CASES[case]
    planned = grid(gpt, **changes)
    meant = check_transfer(planned, tmp_path / "meant", Landscape(place, **landscape))
    said = as_dict(meant)
    garble(monkeypatch, transfer_words)
    monkeypatch.setattr(transfer_words, "sentences", lambda check: (NONSENSE,))
    garbled = check_transfer(planned, tmp_path / "garbled", Landscape(place, **landscape))
    assert as_dict(garbled)["sentence"] == NONSENSE != said["sentence"]
    assert (garbled.state, garbled.passed, garbled.has_power) == (meant.state, meant.passed, meant.has_power)
    assert {k: v.reasons for k, v in garbled.verdicts.items()} == {k: v.reasons for k, v in meant.verdicts.items()}
    assert values(as_dict(garbled)) == values(said)
    assert (meant.state in ("passed", "no power")) == (not meant.judged.reasons)


def test_every_cause_has_words() -> None:
    special = {Cause.CONTROL, Cause.SMALL_SLOPE, Cause.FIXED_SIZE}
    assert set(coord_words._CAUSES) == set(Cause) - special
