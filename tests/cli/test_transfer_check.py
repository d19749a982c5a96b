"""`mutransfer transfer-check` on a tiny gpt, with worker processes: exit codes, files, JSON, pictures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mutransfer.config.load import load_config, save_config
from mutransfer.verification.transfer_grid import make_grid
from mutransfer.verification.transfer_points import CheckFolder
from tests.cli.conftest import Refused, invoke
from tests.conftest import REPOSITORY

SMALL = ("--sizes", "16,32", "--values", "0.002,0.004,0.008", "--seeds", "2", "--workers", "2")


def test_a_check_runs_to_its_verdict_and_again_without_training(workspace: Path) -> None:
    arguments = ("transfer-check", "gpt.yaml", *SMALL, "--no-control", "--runs", "fresh", "--tolerance", "5")
    code, stdout, stderr = invoke(*arguments, "--json")
    answer = json.loads(stdout)
    assert code == answer["exit_code"] == (0 if answer["passed"] else 3)
    assert "12 runs of 6 steps: 6 at width 16" in stderr
    folder = Path("fresh/tiny/checks/transfer-check/lr-width")
    assert answer["folder"] == str(folder)
    assert Path(answer["files"]["png"]).read_bytes().startswith(b"\x89PNG")
    assert "<svg" in Path(answer["files"]["svg"]).read_text(encoding="utf-8")
    verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["passed"] is answer["passed"]
    # Six steps are far too few for an lr of 0.008: the optimum is above, and stays so once the grid is widened.
    assert verdict["state"] == "undecided"
    assert verdict["parametrizations"]["mup"]["widened"] is True
    assert verdict["parametrizations"]["mup"]["values"] == [0.002, 0.004, 0.008, 0.016, 0.032]
    study = folder / "rounds" / "001" / "study.db"
    before = study.stat().st_mtime_ns
    again, stdout, _ = invoke(*arguments)
    assert (again, study.stat().st_mtime_ns) == (code, before)
    assert "lr undecided across width 16 to 32: at width 16 the optimum" in stdout.replace("\n", " ")
    assert invoke("status", "--runs", "fresh")[1].startswith("no sweeps in fresh")


def test_a_check_can_pass(workspace: Path) -> None:
    code, stdout, _ = invoke(
        "transfer-check", "gpt.yaml", "--sizes", "16,32", "--values", "0.001,0.064,8", "--no-control",
        "--workers", "2", "--out", "elsewhere", "--set", "training.steps=8", "--json",
    )  # fmt: skip
    answer = json.loads(stdout)
    assert (code, answer["state"], answer["passed"]) == (0, "passed", True)
    assert answer["parametrizations"]["mup"]["transferred_value"] == 0.064
    assert (workspace / "elsewhere" / "points.csv").exists()


def test_an_interrupted_check_says_how_to_go_on(workspace: Path) -> None:
    """Ctrl-C while the workers train."""
    arguments = ["transfer-check", "gpt.yaml", *SMALL, "--set", "training.steps=100000", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mutransfer", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Sweeping"):
            break
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "the same command continues" in json.loads(stdout)["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sizes", "16,x"), "--sizes 16,x: write whole numbers with commas between them"),
        (("--values", "0.1,fast,0.3"), "has both numbers and names"),
        (("--values", "0.1,0.2,"), "write values with commas between them"),
        (("--values", "1,2,3", "--grid", "1:4"), "--values and --grid: give one of them"),
        (("--grid", "4:1"), "--grid 4:1: write it as LOW:HIGH with 0 < LOW < HIGH"),
        (("--grid", "0.1:0.2"), "needs three values or more, but got 2"),
        (("--sizes", "16,20"), "--sizes 20: model.head_dim: 8 does not divide width 20"),
        (("--hparam", "lrr"), "--hparam lrr: is not an hparam; did you mean lr? choose among lr, embedding_lr, "),
        (("--hparam", "nope"), "--hparam nope: is not an hparam; choose among lr, embedding_lr, "),
        (("--hparam", "optimizer", "--values", "adam,sgd"), "--hparam optimizer: cannot be checked: its best lr is"),
        (
            ("--hparam", "momentum", "--values", "0.5,0.7,0.9"),
            "--hparam momentum: has no effect with optimizer adamw; it is for sgd and muon; choose among lr, "
            "embedding_lr, ",
        ),
        (("--hparam", "momentum"), "--hparam momentum: has no effect with optimizer adamw; it is for sgd and"),
        (
            ("--set", "hparams.optimizer=adam", "--hparam", "weight_decay", "--values", "0.1,0.2,0.4"),
            "--hparam weight_decay: adam's coupled L2 has no width-independent rule",
        ),
        (
            ("--hparam", "step_factor", "--values", "0.1,0.2,0.4"),
            "--hparam step_factor: has no effect with schedule cosine; it is for step; choose among ",
        ),
        (
            ("--hparam", "relative_scale", "--values", "0.5,1,2"),
            "--hparam relative_scale: has no effect: the model has no relative positions; choose among ",
        ),
        (("--axis", "depth", "--sizes", "1,99999999"), "--sizes 99999999: model.depth: must be <= 10000"),
        (("--tolerance", "inf"), "--tolerance inf: must be a finite number of octaves >= 0"),
        (
            ("--hparam", "schedule", "--values", "cosine,linera"),
            "--values linera: schedule: must be ",
        ),
        (("--values", "0.1,0.2,nan"), "--values 0.1,0.2,nan: nan is not a value; give finite numbers, or names"),
        (("--grid", "a:b"), "--grid a:b: write it as LOW:HIGH"),
    ],
)
def test_what_cannot_be_checked_is_refused(refused: Refused, arguments: tuple[str, ...], message: str) -> None:
    assert message in refused("transfer-check", "gpt.yaml", *arguments)


def test_data_too_short_for_the_largest_size_leaves_no_folder(refused: Refused) -> None:
    message = refused("transfer-check", "gpt.yaml", "--axis", "seq-len", "--sizes", "16,4000")
    assert message.startswith("corpus.txt: too short: the ")


@pytest.mark.parametrize(
    ("begun_with", "message"),
    [
        ({"steps": 7}, "elsewhere: holds the check of another config; give this one another --out."),
        ({"steps": 6}, "corpus.txt: too short: the "),
    ],
)
def test_a_check_that_cannot_go_on_says_so_before_its_plan(
    refused: Refused, begun_with: dict[str, int], message: str
) -> None:
    """`refused` wants nothing before the message."""
    config = load_config("gpt.yaml")
    training = config.training.model_copy(update=begun_with)
    begun = config.model_copy(update={"training": training, "search": None})
    save_config(begun, Path("elsewhere/config.yaml"))
    options = ("--axis", "seq-len", "--sizes", "16,4000", "--out", "elsewhere")
    assert refused("transfer-check", "gpt.yaml", *options).startswith(message)


@pytest.mark.parametrize(
    ("options", "of"), [(("--hparam", "init_scale"), "init_scale over width"), (("--axis", "depth"), "lr over depth")]
)
def test_the_folder_of_another_check_is_left_alone(refused: Refused, options: tuple[str, ...], of: str) -> None:
    config = load_config("gpt.yaml")
    grid = make_grid(config, sizes=[16, 32])
    folder = CheckFolder(Path("elsewhere"))
    save_config(config.model_copy(update={"search": None}), folder.config)
    save_config(grid.round(grid.parametrizations, grid.sizes, grid.seeds, grid.values), folder.next_round().config)
    message = refused("transfer-check", "gpt.yaml", "--out", "elsewhere", *options)
    assert message == f"elsewhere: holds the check of lr over width; give this one, of {of}, another --out"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sizes", "16,16"), "--sizes: has 16 twice"),
        (("--values", "1e-3,1e-3,1e-2"), "--values: has 0.001 twice"),
    ],
)
def test_what_is_given_twice_is_named(write, gpt, options, message):
    code, _, stderr = invoke("transfer-check", str(write(gpt)), *options)
    assert code == 2
    assert message in stderr
