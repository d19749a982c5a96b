"""`model: {kind: command}`: what is refused, each with the field and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mutransfer.config.load import dump_config, validate
from mutransfer.config.source import parse_yaml
from mutransfer.errors import ConfigError
from mutransfer.training.command import values_of

TEXT = """\
name: own
model:
  kind: command
  width: 64
  base_width: 64
  command: [train, --lr, "{lr}", --width, "{width}", --seed, "{seed}", --epochs, 3]
  loss_from: {json_lines: stdout}
search: {trials: 4, space: {lr: {log_uniform: [1e-3, 1e-1]}}}
"""


def changed(old: str = "", new: str = ""):
    assert old in TEXT
    return validate(parse_yaml(TEXT.replace(old, new) if old else TEXT, "own.yaml"))


def test_it_loads_without_data_and_its_dump_loads_again():
    config = changed()
    assert (config.data.kind, config.model.command[-1]) == ("none", "3")
    assert validate(parse_yaml(dump_config(config), "dump")) == config


def test_every_other_kind_needs_data_as_before():
    with pytest.raises(ConfigError, match=r"^x:1: data: is required$"):
        validate(parse_yaml("name: x\nmodel: {kind: mlp, width: 8, base_width: 8}\n", "x"))
    with pytest.raises(ConfigError, match="none gives nothing, but model kind mlp takes classes"):
        validate(parse_yaml("name: x\nmodel: {kind: mlp, width: 8, base_width: 8}\ndata: {kind: none}\n", "x"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{lr}", "{lrr}",
         r"own.yaml:6: model.command.2: '\{lrr\}': there is no placeholder \{lrr\}; did you mean \{lr\}\?"),
        ("{lr}", "{lr:.3f}", r"a placeholder takes no format; write \{lr\}"),
        ("{lr}", "{lr", "model.command.2: .* write a literal brace as"),
        ("[train, --lr", "[true, --lr", "model.command.0: must be text"),
        ('[train, --lr, "{lr}", --width, "{width}", --seed, "{seed}", --epochs, 3]', "train --lr {lr}",
         "must be a list of arguments"),
        ("{width}", "64", "never gets the width"),
        ("{width}", "{width} {depth}", "model.depth: is required"),
        ("base_width: 64", "base_width: 64\n  depth: 2", "model.depth: has no effect: the command never gets {depth}"),
        ("{lr}", "{lr} {clip}", "hparams.clip: is required"),
        ("{seed}", "0", r"search.confirm: has no effect: the command never gets \{seed\}"),
        ("space: {lr: {log_uniform: [1e-3, 1e-1]}}", "space: {temperature: {choice: [1, 2]}}",
         r"search.space.temperature: has no effect: the command never gets \{temperature\}; put it into model.command"),
        ("space: {lr", "objective: training_loss, space: {lr", "search.objective: has no effect"),
        ("space: {lr", "stages: [{steps: 5}, {keep: 0.5}], space: {lr", "search.stages: has no effect"),
        ("space: {lr", "pruner: median, space: {lr", "search.pruner: is impossible with model kind command"),
        ("search:", "hparams: {beta1: 0.5}\nsearch:", "hparams.beta1: has no effect"),
        ("search:", "training: {batch_size: 3}\nsearch:", "training.batch_size: has no effect"),
        ("search:", "parametrization: sp\nsearch:", "parametrization: has no effect"),
        ("search:", "rules: {weight_decay: independent}\nsearch:", "rules: has no effect"),
        ("search:", "data: {kind: text, source: python-stdlib}\nsearch:", "data: has no effect: a command brings"),
        ("{json_lines: stdout}", "{}", "model.loss_from: give exactly one of json_lines"),
        ("{json_lines: stdout}", "{json_lines: /tmp/x}", "must be a stream, or a file in the trial's folder"),
        ("{json_lines: stdout}", "{json_lines: metrics.jsonl}", "is mutransfer's own file"),
        ("{json_lines: stdout}", "{json_lines: stdout, source: stderr}", "source: has no effect with json_lines"),
        ("{json_lines: stdout}", "{regex: '(a'}", "is not a regular expression"),
        ("{json_lines: stdout}", "{regex: 'loss'}", "needs one group"),
        ("{json_lines: stdout}", "{json_lines: stdout, fild: x}", "fild: unknown key; did you mean field"),
        ("loss_from:", "environment: {MUTRANSFER_LR: x}\n  loss_from:", "is set by mutransfer"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_starts(old, new, message):
    with pytest.raises(ConfigError, match=message):
        changed(old, new)


def test_a_command_that_reads_the_environment_gets_everything():
    config = changed("loss_from:", "passes: environment\n  loss_from:")
    assert config.model.dead_hparams() == {}
    assert config.model.has_control
    names = set(values_of(config, Path("x")))
    assert names >= {"lr", "beta1", "width", "base_width", "steps", "seed", "trial_folder", "parametrization"}
    assert "clip" not in names  # not set


def test_null_is_no_argument():
    text = TEXT.replace("{lr}", "{lr} {clip}").replace("space: {", "space: {clip: {choice: [null, 1.0]}, ")
    with pytest.raises(ConfigError, match=r"search\.space\.clip: null cannot be passed"):
        validate(parse_yaml(text, "own.yaml"))


def test_a_setting_that_is_passed_may_change_and_a_swept_point_is_a_run():
    config = changed()
    assert config.at_point({"lr": 0.5, "training.seed": 3, "model.width": 128}).training.seed == 3
    with pytest.raises(ValidationError, match="never gets"):
        config.at_point({"training.steps": 3})
