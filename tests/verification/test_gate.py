"""Gates: nothing is swept past a broken rule, nothing transferred past a failed check, and each says how to go on."""

from __future__ import annotations

import json
import os

import pytest

from mutransfer.config.load import load_config
from mutransfer.errors import NothingUsable
from mutransfer.parametrization import rules
from mutransfer.parametrization.rules import Power, Rule
from mutransfer.sweep.coordinator import run_sweep
from mutransfer.sweep.study import Study
from mutransfer.transfer.target import Overrides, make_target
from mutransfer.verification.gate import check_before_sweep, failed_checks, require_no_failure
from tests.conftest import build
from tests.sweep.test_coordinator import Scripted, fake


@pytest.fixture
def broken_hidden_lr(monkeypatch):
    monkeypatch.setitem(rules.RULES["mup"], "hidden", Rule(init_std=Power(m_in=-0.5)))


def sweep(config, runs, check):
    return run_sweep(config, runs=runs, pack=1, executor=lambda: Scripted(fake), check=check)


def save(root, name, config, **verdict):
    path = root / "checks" / name / "verdict.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"passed": False, "sentence": "failed in a", "config": config.resolved(), **verdict}))
    return path


def test_a_sound_config_is_swept_and_its_provenance_says_that_it_was_checked(mlp, tmp_path):
    config = build(mlp)
    result = sweep(config, tmp_path, lambda root: check_before_sweep(config, root))
    target = make_target(result.folder, Overrides(width=64))
    assert target.config.provenance.check == "quick coordinate check passed over widths 16 to 128"
    saved = json.loads((result.folder.root / "checks" / "quick" / "verdict.json").read_text())
    assert saved["passed"] is True
    assert failed_checks(config, result.folder.root) == []


@pytest.mark.usefixtures("broken_hidden_lr")
def test_a_broken_rule_ends_the_sweep_before_it_begins(mlp, tmp_path):
    config = build(mlp, hparams={"optimizer": "adamw", "lr": 0.01})
    with pytest.raises(NothingUsable, match=r"layers\.1.*--no-check"):
        sweep(config, tmp_path, lambda root: check_before_sweep(config, root))
    assert not (tmp_path / config.name / "study.db").exists()  # so the mended config may have the name
    with pytest.raises(NothingUsable, match="--force"):
        require_no_failure(config, tmp_path / config.name, force=False)
    forced = require_no_failure(config, tmp_path / config.name, force=True)
    assert forced.startswith("forced past a failed check: ")


def test_a_sweep_that_skipped_the_check_says_so_and_catches_up_when_continued(mlp, tmp_path):
    config = build(mlp)
    result = sweep(config, tmp_path, None)
    assert make_target(result.folder, Overrides(width=64)).config.provenance.check == "skipped"
    calls = []

    def check(root):
        calls.append(root)
        return "checked"

    for _ in range(2):
        sweep(config, tmp_path, check)
    assert calls == [result.folder.root]
    assert Study(result.folder.study, None).attributes["check"] == "checked"


@pytest.mark.parametrize("parametrization", ["sp", "ntk"])
def test_controls_are_not_gated(mlp, tmp_path, parametrization):
    config = build(mlp, parametrization=parametrization)
    assert check_before_sweep(config, tmp_path) == f"not run: {parametrization} is a control"
    assert not (tmp_path / "checks").exists()


def test_what_counts_is_the_last_check_of_this_model(gpt, tmp_path):
    config = build(gpt)
    old = save(tmp_path, "quick", config)
    assert failed_checks(config, tmp_path) == [f"{old}: failed in a"]
    assert failed_checks(build(gpt, model__width=64, hparams__lr=0.5), tmp_path)  # neither width nor lr matters
    for other in (
        {"model__heads": 2, "model__head_dim": None},
        {"hparams__optimizer": "sgd"},
        {"parametrization": "sp"},
    ):
        assert failed_checks(build(gpt, **other), tmp_path) == []
    later = save(tmp_path, "coord-check", config, passed=True)
    os.utime(later, (old.stat().st_mtime + 10,) * 2)
    assert failed_checks(config, tmp_path) == []  # the full check came later, and passed
    wider = save(tmp_path, "transfer-check/lr-width", config)
    assert failed_checks(config, tmp_path) == [f"{wider}: failed in a"]
    save(tmp_path, "transfer-check/lr-width", config, state="undecided")
    assert failed_checks(config, tmp_path) == []
    for unreadable in ("{torn", "[]", '{"passed": false}'):
        wider.write_text(unreadable)
        (failure,) = failed_checks(config, tmp_path)
        assert failure.startswith(f"{wider}: is damaged (")
        assert failure.endswith("); run the check again, or remove the file")


def test_a_weaker_or_another_check_does_not_overrule_a_failure(gpt, tmp_path):
    config = build(gpt)
    full = save(tmp_path, "coord-check", config)
    for name in ("quick", "coord-check-depth", "transfer-check/lr-width"):
        later = save(tmp_path, name, config, passed=True)
        os.utime(later, (full.stat().st_mtime + 10,) * 2)
        assert failed_checks(config, tmp_path) == [f"{full}: failed in a"]


def test_no_power_is_no_failure(gpt, tmp_path):
    config = build(gpt)
    save(tmp_path, "coord-check", config, outcome="no power")
    save(tmp_path, "transfer-check/lr-width", config, state="no power")
    assert failed_checks(config, tmp_path) == []


def test_a_saved_config_is_compared_as_it_was_written(gpt, tmp_path, write):
    config = build(gpt)
    save(tmp_path, "quick", config)
    assert failed_checks(load_config(write(gpt)), tmp_path)
