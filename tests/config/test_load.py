"""YAML in, a validated config or a message with file, line and field out."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from mutransfer.config.load import load_config
from mutransfer.config.models import MODELS
from mutransfer.errors import ConfigError
from tests.config.conftest import FILE, GPT, MLP, Load, Refuse, edited

KINDS = list(MODELS.built_in)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("1e-3", 1e-3), ("1E5", 1e5), ("5e-4", 5e-4), (".5", 0.5), ("1e3", 1e3), ("1.5e+3", 1500.0), ("1.", 1.0),
     ("+2e-3", 2e-3), ("12", 12.0), ("1_000", 1000.0)],
)  # fmt: skip
def test_numbers_are_read_as_written(load: Load, written: str, meant: float) -> None:
    lr = load(edited(GPT, "lr: 0.01", f"lr: {written}")).hparams.lr
    assert lr == meant
    assert isinstance(lr, float)


def test_twelve_is_a_whole_number_and_a_name_of_letters_stays_text(load: Load) -> None:
    config = load(edited(GPT, "name: tiny", "name: e3"))
    assert (config.training.steps, type(config.training.steps), config.name) == (12, int, "e3")


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (GPT + "name: again\n", 10, "name is given twice"),
        (edited(GPT, "steps: 12", "steps: 12, steps: 13"), 4, "training.steps is given twice"),
        (GPT + "    lr: {uniform: [1, 2]}\n", 10, "search.space.lr is given twice"),
        ("name: tiny\nmodel: {kind: gpt\n", 3, "YAML syntax error"),
        ("name: tiny\n\tmodel: 1\n", 2, "YAML syntax error"),
        (GPT + "---\nname: other\n", 10, "YAML syntax error"),
        ("name: *nowhere\n", 1, "undefined alias 'nowhere'"),
        ("name: !!python/name:os.system x\n", 1, "the tag 'tag:yaml.org,2002:python/name:os.system'"),
        ("name: tiny\n7: x\n", 2, "keys must be text, but got 7"),
    ],
)
def test_text_that_is_no_sound_yaml_is_refused_with_its_line(
    refuse: Refuse, text: str, line: int, problem: str
) -> None:
    message = refuse(text)
    assert message.startswith(f"{FILE}:{line}: ")
    assert problem in message
    assert len(message.splitlines()) == 1


def test_a_control_character_is_refused_as_a_config_error(refuse: Refuse) -> None:
    assert refuse("name: a\0b\n").startswith(f"{FILE}:1: ")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- name\n", "tiny\n"])
def test_a_file_that_is_no_mapping_is_refused(refuse: Refuse, text: str) -> None:
    assert refuse(text) == f"{FILE}: must be a mapping with name, model and data"


def test_files_that_cannot_be_read_are_refused_with_the_reason(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: caf\xe9\n".encode("latin-1"))
    for path, reason in (
        (tmp_path / "missing.yaml", "no such file"),
        (tmp_path, "is a folder, not a file"),
        (latin, "is not UTF-8 text"),
    ):
        with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: {reason}$"):
            load_config(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_read_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text(GPT, encoding="utf-8")
    path.chmod(0)
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read: Permission denied"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "where", "near"),
    [
        (GPT + "nmae: x\n", "10: nmae", "name"),
        (edited(GPT, "depth: 1", "dept: 1"), "2: model.dept", "depth"),
        (edited(GPT, "seq_len: 16", "seqlen: 16"), "3: data.seqlen", "seq_len"),
        (edited(GPT, "steps: 12", "step: 12"), "4: training.step", "steps"),
        (edited(GPT, "lr: 0.01", "temprature: 2.0"), "5: hparams.temprature", "temperature"),
        (edited(GPT, "trials: 4", "trails: 4"), "7: search.trails", "trials"),
        (edited(GPT, "log_uniform", "log_unifrm"), "9: search.space.lr.log_unifrm", "log_uniform"),
        (edited(GPT, "{log_uniform: [1e-3, 1e-1]}", "{powers: {strt: 1, start: 1, stop: 2}}"),
         "9: search.space.lr.powers.strt", "start"),
        (edited(MLP, "width: 16, base", "activaton: relu, width: 16, base"), "2: model.activaton", "activation"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_refused_and_the_nearest_one_offered(
    refuse: Refuse, text: str, where: str, near: str
) -> None:
    assert f"{FILE}:{where}: unknown key; did you mean {near}?" in refuse(text).splitlines()


def test_an_unknown_key_like_no_other_is_answered_with_the_keys_there_are(refuse: Refuse) -> None:
    message = refuse(edited(MLP, "{kind: digits}", "{kind: digits, zzz: 1}"))
    assert message == f"{FILE}:3: data.zzz: unknown key; the keys here are validation_fraction, kind"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 12", "steps: twelve", "4: training.steps: must be a whole number, but got 'twelve'"),
        ("steps: 12", "steps: 12.0", "4: training.steps: must be a whole number, but got 12.0"),
        ("steps: 12", "steps: true", "4: training.steps: must be a whole number, but got True"),
        ("steps: 12", "compile: 1", "4: training.compile: must be true or false, but got 1"),
        ("lr: 0.01", "lr: fast", "5: hparams.lr: must be a number, but got 'fast'"),
        ("lr: 0.01", "lr: '0.01'", "5: hparams.lr: must be a number, but got '0.01'"),
        ("lr: 0.01", "lr: .inf", "5: hparams.lr: must be finite, but got inf"),
        ("[a.txt]", "a.txt", "3: data.paths: must be a list, but got 'a.txt'"),
        ("[a.txt]", "[a.txt, 5]", "3: data.paths.1: must be text, but got 5"),
        ("name: tiny", "name: 12", "1: name: must be text, but got 12"),
        ("{steps: 12}", "12", "4: training: must be a section (key: value lines), but got 12"),
        ("steps: 12", "steps: 0", "4: training.steps: must be > 0, but got 0"),
        ("lr: 0.01", "lr: 0", "5: hparams.lr: must be > 0, but got 0"),
        ("lr: 0.01", "warmup: 1", "5: hparams.warmup: must be < 1, but got 1"),
        ("lr: 0.01", "weight_decay: -0.1", "5: hparams.weight_decay: must be >= 0, but got -0.1"),
        (
            "lr: 0.01",
            "optimizer: adamax",
            "5: hparams.optimizer: adamax: there is no such optimizer; did you mean adam?",
        ),
        ("kind: gpt", "kind: gtp", f"2: model.kind: 'gtp' is not one of {', '.join(KINDS)}; did you mean gpt?"),
        ("kind: gpt, ", "", "2: model: needs a 'kind'"),
        ("base_width: 16, ", "", "2: model.base_width: is required"),
        (
            "name: tiny",
            "name: a/b",
            "1: name: may have letters, digits, dots, dashes and underscores only, but got 'a/b'",
        ),
        ("paths: [a.txt], ", "", "3: data.paths: source 'files' needs at least one path or glob"),
        ("seq_len: 16", "source: python-stdlib", "3: data.paths: has no effect with source 'python-stdlib'"),
        ("trials: 4", "trials: 0", "7: search.trials: must be > 0, but got 0"),
    ],
)
def test_a_wrong_value_is_refused_with_line_field_and_what_would_be_right(
    refuse: Refuse, old: str, new: str, message: str
) -> None:
    assert refuse(edited(GPT, old, new)) == f"{FILE}:{message}"


def test_every_problem_of_a_file_is_told_at_once(refuse: Refuse) -> None:
    text = edited(edited(GPT, "steps: 12", "steps: 0"), "lr: 0.01", "lr: fast")
    assert [line.split(": ")[0] for line in refuse(text).splitlines()] == [f"{FILE}:4", f"{FILE}:5"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("head_dim: 8", "head_dim: 5", "2: model.head_dim: 5 does not divide width 16"),
        ("head_dim: 8", "heads: 3", "2: model.heads: 3 does not divide width 16"),
        ("width: 16, base_width: 16", "width: 16, base_width: 4",
         "2: model.head_dim: 8 does not divide base_width 4"),
        ("width: 16, base_width: 16", "width: 8, base_width: 16",
         "2: model.width: 8 is narrower than base_width 16"),
        (", head_dim: 8", "", "2: model.head_dim: give exactly one of head_dim"),
        ("head_dim: 8", "head_dim: 1, positions: rotary",
         "2: model.positions: rotary needs an even head size, but width 16 has heads of 1"),
        ("head_dim: 8", "head_dim: 8, tied_embeddings: true, zero_readout: true",
         "2: model.zero_readout: is impossible with tied_embeddings"),
        ("kind: text, paths: [a.txt], seq_len: 16", "kind: digits",
         "3: data.kind: digits gives classes, but model kind gpt takes tokens"),
        ("lr: 0.01", "momentum: 0.9", "5: hparams.momentum: has no effect with optimizer adamw; it is for sgd"),
        ("lr: 0.01", "schedule: constant, final_lr: 0.1",
         "5: hparams.final_lr: has no effect with schedule constant; it is for linear and cosine"),
        ("lr: 0.01", "optimizer: adam, weight_decay: 0.1",
         "5: hparams.weight_decay: adam's coupled L2 has no width-independent rule; use optimizer adamw"),
        ("lr: 0.01", "schedule: step, milestones: [0.8, 0.5]", "5: hparams.milestones: must rise"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(refuse: Refuse, old: str, new: str, message: str) -> None:
    assert refuse(edited(GPT, old, new)).startswith(f"{FILE}:{message}")


def test_an_hparam_that_the_model_cannot_feel_is_refused(refuse: Refuse) -> None:
    message = refuse(edited(MLP, "{optimizer: sgd}", "{optimizer: sgd, attention_temperature: 2.0}"))
    assert message == f"{FILE}:4: hparams.attention_temperature: has no effect: the model has no attention"


def test_merge_keys_are_followed(load: Load) -> None:
    config = load(edited(GPT, "training: {steps: 12}", "training: {<<: &t {steps: 12}, batch_size: 3}"))
    assert (config.training.steps, config.training.batch_size) == (12, 3)


@pytest.mark.parametrize("text", ["012", "1:30"])
def test_octal_and_base_60_are_not_guessed(refuse: Refuse, text: str) -> None:
    message = refuse(edited(GPT, "steps: 12", f"steps: {text}"))
    assert message == f"{FILE}:4: training.steps: must be a whole number, but got '{text}'"


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("trials: 4", "storage: 'postgresql://me@srv:S3CRET@h/d'", "7: search.storage"),
        ("trials: 4", 'storage: "postgresql://me:S3\\nCRET@h/d"', "7: search.storage"),
        ("trials: 4", "storage: 'postgresql://h/d?sslpassword=S3CRET'", "7: search.storage"),
        ("trials: 4", "objective: 'postgresql://me:S3CRET@h/d'", "7: search.objective"),
        ("[a.txt]", "['https://h/a.txt?token=S3CRET']", "3: data.paths.0"),
        ("lr: 0.01", "'postgresql://me:S3CRET@h/d': 1", "5: hparams"),
        ("lr: 0.01", "lr: ['x', {a: 'redis://:S3CRET@h'}]", "5: hparams.lr.1.a"),
    ],
)
def test_a_secret_in_any_field_is_refused_and_not_repeated(refuse: Refuse, old: str, new: str, where: str) -> None:
    message = refuse(edited(GPT, old, new))
    assert message.startswith(f"{FILE}:{where}: has a password")
    assert "S3" not in message
    assert "CRET" not in message


@pytest.mark.parametrize("field", ["search.storage", "search", "search.space.lr", "postgresql://me:S3CRET@h/d"])
def test_an_override_does_not_repeat_a_secret(refuse: Refuse, field: str) -> None:
    assert "S3CRET" not in refuse(GPT, f"{field}=postgresql://me@srv:S3CRET@h/d", "training.steps=0")


@pytest.mark.parametrize("storage", ["x", "://", "5", "[1]", "postgresql//h"])
def test_a_storage_that_is_not_a_url_is_refused(refuse: Refuse, storage: str) -> None:
    assert "7: search.storage: must be a storage URL" in refuse(edited(GPT, "trials: 4", f"storage: {storage}"))


def test_a_thousand_mistakes_are_told_soon_and_not_all(refuse: Refuse) -> None:
    message = refuse(GPT + "".join(f"x{number}: 1\n" for number in range(1000)))
    assert len(message.splitlines()) == 21
    assert message.endswith("… and 980 more problems")
