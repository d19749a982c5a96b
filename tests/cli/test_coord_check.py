"""`mutransfer coord-check`: verdict in words, files, JSON, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import mutransfer
from mutransfer.config.schema import RunConfig
from mutransfer.data import load_data
from tests.cli.conftest import Refused, files, invoke

SMALL = ("--set", "model.width=64", "--set", "model.base_width=64", "--set", "model.depth=2", "--seeds", "1")
SIZES = ("--sizes", "64,128,256,512")
FOLDER = Path("runs/digits/checks/coord-check")


def test_a_passing_check_writes_its_files_and_says_so(workspace: Path) -> None:
    code, stdout, stderr = invoke("coord-check", "mlp.yaml", *SMALL, *SIZES)
    assert code == 0
    assert "passed: all 3 modules keep their size and change over width 64 to 512; the control sp fails in" in stdout
    assert "layers.1" in stdout
    assert "[1/8] mup, width 64, seed 0" in stderr
    verdict = json.loads((FOLDER / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["passed"] is True
    assert verdict["mutransfer"] == mutransfer.__version__
    assert RunConfig.model_validate(verdict["config"]).model.base_width == 64
    table = pd.read_csv(FOLDER / "activations.csv")
    assert set(table["parametrization"]) == {"mup", "sp"}
    assert {"rms", "mean_abs", "change_rms", "change_mean_abs", "update_rms"} <= set(table["quantity"])
    assert set(table["step"]) == set(range(9))
    assert (FOLDER / "coord-check.png").exists()
    assert (FOLDER / "coord-check.svg").exists()


def test_a_failing_check_names_the_culprit_and_exits_with_3(workspace: Path) -> None:
    chosen = ("--set", "parametrization=sp", "--out", "elsewhere", "--json")
    code, stdout, _ = invoke("coord-check", "mlp.yaml", *SMALL, *SIZES, *chosen)
    answer = json.loads(stdout)
    assert (code, answer["passed"], answer["outcome"], answer["culprit"]) == (3, False, "failed", "readout")
    assert "is the standard parametrization" in answer["hint"]
    assert answer["control"] is None
    assert sorted(Path(path).name for path in answer["files"]) == sorted(
        path.name for path in Path("elsewhere").iterdir()
    )
    code, stdout, _ = invoke("coord-check", "mlp.yaml", *SMALL, *SIZES, *chosen[:-1])
    assert code == 3
    assert "failed in" in stdout
    assert "is the standard parametrization" in " ".join(stdout.split())


def test_a_stopped_check_exits_with_4_and_writes_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(workspace)
    monkeypatch.setattr("mutransfer.signals.stop_on_signals", _stopped)
    code, _, stderr = invoke("coord-check", "mlp.yaml", *SMALL)
    assert code == 4
    assert "the same command starts it again" in stderr
    assert files(workspace) == before


class _stopped:  # noqa: N801 - stands for a function
    def __enter__(self) -> object:
        return lambda: True

    def __exit__(self, *exception: object) -> None:
        load_data.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sizes", "64,wide"), "--sizes 64,wide: write whole numbers"),
        (("--sizes", "64,128"), "a slope needs three of them"),
        (("--sizes", "8,16,32"), "narrower than base_width 16"),
        (("--axis", "height"), "axis height: must be width or depth"),
        (("--threshold", "0"), "threshold must be a positive number"),
        (("--finite", "layer.1"), "--finite layer.1: there is no such module; did you mean layers.1?"),
        (("--finite", "layers.1", "--finite", "NOPE"), "--finite NOPE: there is no such module; there are layers.0, "),
        (("--axis", "depth", "--sizes", "2,4,8", "--finite", "layers.1"), "there is no such module"),
        (("--axis", "depth", "--sizes", "2,4,99999999"), "at depth 99999999: depth: must be <= 10000"),
    ],
)
def test_impossible_options_are_refused_before_any_training(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("mutransfer.training.learner.Learner.train_step", None)
    assert message in refused("coord-check", "mlp.yaml", *arguments)
