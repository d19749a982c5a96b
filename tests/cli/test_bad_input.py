"""What a user gets for bad input: an exit code, one clear message, and everything as it was.

The fixture `refused` checks code, streams, JSON and files; the tests here check what the message says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mutransfer.config.data import TokenSpec
from mutransfer.config.models import GPTSection
from mutransfer.data import load_data
from mutransfer.models import gpt
from tests.cli.conftest import GPT, Refused, files, invoke
from tests.conftest import TEXT

TRAIN = Path("runs/tiny/train")
STUDY = Path("runs/tiny/study.db")
needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")

LOCKED = "locked: this folder cannot be written to; name another folder or change its permissions"


@pytest.mark.parametrize("verb", ["sweep", "train", "audit", "coord-check"])
def test_a_missing_config(refused: Refused, verb: str) -> None:
    assert refused(verb, "gone.yaml") == "gone.yaml: no such file"


@pytest.mark.parametrize("verb", ["sweep", "train", "audit", "coord-check"])
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: tiny", "name: [tiny", "bad.yaml:2: YAML syntax error: "),
        ("name: tiny", "name: tiny\nname: other", "bad.yaml:2: name is given twice"),
        ("name: tiny", "name: \0", "bad.yaml:1: "),
        ("steps: 6", "step: 6", "bad.yaml:4: training.step: unknown key; did you mean steps?"),
        ("width: 16, base", "width: 20, base", "bad.yaml:2: model.head_dim: 8 does not divide width 20"),
        ("width: 16, base", "width: 8, base", "bad.yaml:2: model.width: 8 is narrower than base_width 16"),
        ("[1e-3, 1e-1]", "[1e-1, 1e-3]", "bad.yaml:9: search.space.lr.log_uniform: low < high must hold"),
        ("steps: 6", "steps: 6.0", "bad.yaml:4: training.steps: must be a whole number, but got 6.0"),
    ],
)  # fmt: skip
def test_a_config_that_is_wrong(refused: Refused, verb: str, old: str, new: str, message: str) -> None:
    Path("bad.yaml").write_text(GPT.replace(old, new), encoding="utf-8")
    assert refused(verb, "bad.yaml").startswith(message)


@pytest.mark.parametrize("verb", ["sweep", "train", "audit", "coord-check"])
def test_a_bad_override(refused: Refused, verb: str) -> None:
    message = "--set training.step=5: training.step: unknown key; did you mean steps?"
    assert refused(verb, "gpt.yaml", "--set", "training.step=5") == message


@pytest.mark.parametrize(
    ("assignment", "meant"),
    [
        ("lr=1e-3", "hparams.lr"),
        ("training.width=64", "model.width"),
        ("hparams.seed=1", "training.seed or search.seed"),
        ("search.lr={choice: [1e-3]}", "search.space.lr"),
    ],
)
def test_a_field_of_another_section(refused: Refused, assignment: str, meant: str) -> None:
    field = assignment.partition("=")[0]
    message = refused("audit", "gpt.yaml", "--set", assignment)
    assert message == f"--set {assignment}: {field}: unknown key; did you mean {meant}?"


@pytest.mark.parametrize("verb", ["sweep", "train"])
def test_text_that_is_too_short(refused: Refused, verb: str) -> None:
    Path("corpus.txt").write_text("to be", encoding="utf-8")
    assert refused(verb, "gpt.yaml", "--set", "name=other") == (
        "corpus.txt: too short: the training part has 5 tokens, but one sequence needs seq_len + 1 = 17"
    )


def test_a_config_without_a_search_section(refused: Refused) -> None:
    Path("plain.yaml").write_text(GPT.partition("search:")[0], encoding="utf-8")
    assert refused("sweep", "plain.yaml") == "tiny: has no search section, so there is nothing to sweep"


@pytest.mark.parametrize("arguments", [("status", "other"), ("transfer", "--width", "32", "--run", "other")])
def test_an_unknown_run_is_answered_with_those_there_are(refused: Refused, arguments: tuple[str, ...]) -> None:
    message = refused(*arguments)
    assert message.startswith("no sweep other in runs; there are ")
    assert set(re.split(", ", message.partition("there are ")[2])) == {"tiny", "digits"}


@pytest.mark.parametrize("arguments", [("status", "tiny"), ("transfer", "--width", "32")])
def test_no_runs_at_all(refused: Refused, arguments: tuple[str, ...]) -> None:
    message = refused(*arguments, "--runs", "elsewhere")
    assert re.fullmatch("no sweep (tiny )?in elsewhere; there are none yet: mutransfer sweep CONFIG makes one", message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--width 8", "--width 8: is narrower than the base width 16; a target is at least that wide"),
        ("--width 20", "model.head_dim: 8 does not divide width 20"),
        ("--width 32 --trial 7", "--trial 7: is not a completed trial; the completed ones, best first, are "),
        ("--width 32 --trial -1", "--trial -1: must be best, median or a trial's number"),
        ("--width 32 --trial worst", "--trial worst: must be best, median or a trial's number"),
        ("--width 999999999999", "--width 999999999999: model.width: must be <= 10000000"),
        ("--width 32 --depth 99999999", "--depth 99999999: model.depth: must be <= 10000"),
        ("--width 32 --seq-len 5000", "--seq-len 5000: corpus.txt: too short: the "),
    ],
)
def test_a_target_that_cannot_be(refused: Refused, arguments: str, message: str) -> None:
    assert message in refused("transfer", "--run", "tiny", *arguments.split())


def test_a_sequence_length_for_data_of_another_machine(workspace: Path) -> None:
    Path("corpus.txt").unlink()
    code, stdout, _ = invoke("transfer", "--run", "tiny", "--width", "32", "--seq-len", "5000")
    assert code == 0
    assert "data.seq_len: 16 → 5000" in stdout


@pytest.mark.parametrize("verb", ["audit", "train", "sweep"])
def test_a_depth_that_nobody_can_wait_for(refused: Refused, verb: str) -> None:
    message = refused(verb, "gpt.yaml", "--set", "model.depth=99999999")
    assert message == "--set model.depth=99999999: model.depth: must be <= 10000, but got 99999999"


@pytest.mark.parametrize(
    "arguments",
    [("train", "gpt.yaml", "--set", "model.width=1000000", "--set", "name=wide"),
     ("coord-check", "gpt.yaml", "--sizes", "16,32,1000000")],
)  # fmt: skip
def test_a_model_that_is_larger_than_memory(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr("mutransfer.models.gpt.GPT.__init__", _only_on_meta(gpt.GPT.__init__))
    message = refused(*arguments, code=3)
    assert re.search(r": 12,0\d\d,\d{3},\d{3},\d{3} parameters at width 1000000 take 8\d,\d{3} GiB with", message)
    assert "but this machine has " in message


def _only_on_meta(make: Callable[..., None]) -> Callable[..., None]:
    def made(model: gpt.GPT, section: GPTSection, spec: TokenSpec) -> None:
        assert torch.get_default_device().type == "meta", "takes memory"
        make(model, section, spec)

    return made


def test_a_sequence_length_for_data_that_has_none(refused: Refused) -> None:
    message = refused("transfer", "--run", "digits", "--width", "32", "--seq-len", "32")
    assert message == "--seq-len: data kind digits has no seq_len"


def test_another_config_in_the_place_of_a_targets_own(refused: Refused) -> None:
    assert invoke("transfer", "--run", "tiny", "--width", "32")[0] == 0
    (config,) = Path("runs/tiny/targets").glob("*/config.yaml")
    config.write_text(config.read_text(encoding="utf-8").replace("steps: 6", "steps: 7"), encoding="utf-8")
    message = refused("transfer", "--run", "tiny", "--width", "32")
    assert message == (
        f"{config}: is there already and differs; move it away to write it anew\n  training.steps: 7 → 6"
    )


def test_a_config_changed_under_a_sweep_is_told_field_by_field(refused: Refused) -> None:
    message = refused(
        "sweep", "gpt.yaml", "--set", "training.steps=7", "--set", "hparams.clip=1.0", "--set", "search.trials=9"
    )
    first, *changes = message.splitlines()
    assert first.startswith("runs/tiny: holds the sweep of another config; give this one another name")
    assert changes == ["  training.steps: 6 → 7", "  hparams.clip: not set → 1.0"]  # trials may change


def test_a_config_changed_under_a_training_run_is_told_field_by_field(refused: Refused) -> None:
    message = refused("train", "gpt.yaml", "--resume", "--set", "training.batch_size=4")
    assert message == f"{TRAIN}: belongs to another config, which differs in\n  training.batch_size: 2 → 4"


def test_data_changed_under_a_sweep(refused: Refused) -> None:
    Path("corpus.txt").write_text(TEXT.replace("be", "do", 1), encoding="utf-8")
    message = refused("sweep", "gpt.yaml")
    assert message.startswith("runs/tiny: the data has changed since this sweep began")
    assert "another name" in message


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    path.write_bytes({"garbage": b"garbage" * 100, "truncated": whole[: len(whole) // 2], "empty": b""}[how])


@pytest.mark.parametrize("how", ["garbage", "truncated", "empty"])
@pytest.mark.parametrize(
    "arguments", [("sweep", "gpt.yaml"), ("status", "tiny"), ("transfer", "--width", "32", "--run", "tiny")]
)
def test_a_damaged_study(refused: Refused, how: str, arguments: tuple[str, ...]) -> None:
    damage(STUDY, how)
    message = refused(*arguments)
    assert message.startswith(f"{STUDY}: study file is damaged (")
    assert message.endswith("restore it from a backup, or move its folder away to start over")


def test_one_damaged_study_does_not_hide_the_other_runs(workspace: Path) -> None:
    damage(STUDY, "garbage")
    code, stdout, stderr = invoke("status")
    assert code == 0
    assert re.search(r"tiny +damaged +– +–", stdout)
    assert re.search(r"digits +finished +1/1", stdout)
    assert stderr.startswith(f"warning: {STUDY}: study file is damaged")


@pytest.mark.parametrize("how", ["garbage", "truncated", "empty"])
def test_a_damaged_checkpoint(refused: Refused, how: str) -> None:
    (checkpoint,) = (TRAIN / "checkpoints").glob("*.pt")
    damage(checkpoint, how)
    message = refused("train", "gpt.yaml", "--resume")
    assert message.startswith(f"{checkpoint}: checkpoint cannot be read, it may be truncated (")
    assert message.endswith("remove its run folder to train from the start")
    assert "weights_only" not in message, "torch's advice to load it unsafely is not ours"


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "has 0 of the 1 steps before the checkpoint"), (b"\xff\xfe not text\n", "has 0 of the 1 steps")],
)
def test_damaged_metrics(refused: Refused, content: bytes, problem: str) -> None:
    (TRAIN / "metrics.jsonl").write_bytes(content)
    assert refused("train", "gpt.yaml", "--resume").startswith(f"{TRAIN}/metrics.jsonl: {problem}")


def test_a_damaged_result(refused: Refused) -> None:
    damage(TRAIN / "result.json", "truncated")
    assert refused("train", "gpt.yaml", "--resume").startswith(f"{TRAIN}/result.json: is damaged (")


def test_training_where_a_run_stands(refused: Refused) -> None:
    assert refused("train", "gpt.yaml") == (
        f"{TRAIN}: holds a run already; continue it with --resume, or choose another folder with --out"
    )


@pytest.mark.parametrize("arguments", [("sweep", "gpt.yaml"), ("train", "gpt.yaml"), ("coord-check", "gpt.yaml")])
def test_a_runs_folder_that_is_a_file(refused: Refused, arguments: tuple[str, ...]) -> None:
    assert refused(*arguments, "--runs", "corpus.txt") == "corpus.txt: is a file, but must be a folder"


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "gpt.yaml", "--out", "x" * 300),
        ("sweep", "gpt.yaml", "--runs", "x" * 300),
        ("transfer-check", "gpt.yaml", "--out", "x" * 300, "--sizes", "16,32"),
        ("export", "x" * 300, "--format", "json"),
        ("status", "x" * 300),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_name_that_is_too_long_for_the_disk(workspace: Path, arguments: tuple[str, ...]) -> None:
    before = files(workspace)
    code, stdout, stderr = invoke(*arguments)
    assert (code, stdout) == (2, "")
    assert "error: " in stderr
    assert "x" * 300 in stderr
    assert files(workspace) == before


def test_a_line_number_is_no_picture(workspace: Path, refused: Refused) -> None:
    Path("long.yaml").write_text("#\n" * 96 + GPT.replace("steps: 6", "steps: x"), encoding="utf-8")
    assert refused("audit", "long.yaml") == "long.yaml:100: training.steps: must be a whole number, but got 'x'"


@needs_permissions
@pytest.mark.parametrize("verb", ["sweep", "train", "coord-check", "transfer-check"])
def test_a_runs_folder_without_write_permission(refused: Refused, verb: str) -> None:
    Path("locked").mkdir(mode=0o500)
    assert refused(verb, "gpt.yaml", "--runs", "locked") == LOCKED


@pytest.mark.parametrize("verb", ["train", "coord-check", "transfer-check"])
def test_a_runs_folder_that_the_system_keeps_from_being_written(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """As on a disk mounted read-only, where root cannot write either."""
    Path("locked").mkdir()
    allowed = os.access

    def access(path: Path | str, mode: int, **options: bool) -> bool:
        return not (mode & os.W_OK and Path(path).name == "locked") and allowed(path, mode, **options)

    monkeypatch.setattr("os.access", access)
    monkeypatch.setattr("mutransfer.training.learner.Learner.train_step", None)  # refused before any work
    assert refused(verb, "gpt.yaml", "--runs", "locked") == LOCKED


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gpt.yaml", "gpt.yaml: is there already; name another file"),
        ("gone/new.yaml", "gone/new.yaml: cannot be written: No such file or directory"),
    ],
)
def test_a_template_over_an_existing_file_or_into_no_folder(refused: Refused, path: str, message: str) -> None:
    assert refused("init", path) == message


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ("sweep gpt.yaml --workers 0", "--workers"),
        ("transfer --width 0", "--width"),
        ("transfer --width 32 --depth 0", "--depth"),
        ("transfer", "--width"),
        ("sweep", "CONFIG"),
        ("sweep gpt.yaml --worker 1", "--worker"),
        ("init new.yaml --model vgg", "--model"),
        ("tune gpt.yaml", "tune"),
    ],
)
def test_an_argument_that_does_not_parse_is_named(workspace: Path, arguments: str, option: str) -> None:
    before = files(workspace)
    load_data.cache_clear()
    code, stdout, stderr = invoke(*arguments.split())
    assert (code, stdout) == (2, "")
    assert option in stderr
    assert "Usage: mutransfer" in stderr
    assert files(workspace) == before
