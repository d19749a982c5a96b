"""YAML that is hostile, or only odd: one message with its line, and soon."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mutransfer.config.load import load_config
from mutransfer.config.source import dump_yaml, parse_yaml
from mutransfer.errors import ConfigError
from tests.config.conftest import FILE, GPT, Load, Refuse, edited

ALIASES = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10))
DEEP = "x: " + "[" * 20_000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ALIASES, "5: there are more than 20000 values"),
        (MERGES, "5: there are more than 20000 values"),
        ("".join(f"k{n}: [1, 2, 3]\n" for n in range(10_000)), "4000: there are more than 20000 values"),
        (DEEP, "1: sections or lists are nested more than 50 levels deep"),
        ("x: " + "{a: " * 200, "1: sections or lists are nested more than 50 levels deep"),
        ("x: &x [*x]\n", "1: sections or lists are nested more than 50 levels deep"),
        ("x: &x {<<: *x}\n", "1: sections or lists are nested more than 50 levels deep"),
        ("\n? [a, b]\n: 1\n", "2: keys must be text"),
        ("a: 1\n<<: 5\n", "2: what follows << must be a section"),
        ("a: !!timestamp x\n", "1: the tag 'tag:yaml.org,2002:timestamp' is not possible here"),
        ("a: !!binary x\n", "1: the tag"),
        ("a: !!set {x, y}\n", "1: the tag"),
        ("a: !!omap [x: 1]\n", "1: the tag"),
        ("a: !!python/object:os.system x\n", "1: the tag"),
        ("a: !!map x\n", "1: the tag"),
        ("a: !!seq {x: 1}\n", "1: the tag"),
        ("a: !mine [1]\n", "1: the tag '!mine' is not possible here"),
        ('a:\n  b: !!int ""\n', "2: '' is not a value of the tag !!int"),
        ('a: !!float ""\n', "1: '' is not a value of the tag !!float"),
        ("a: !!bool x\n", "1: 'x' is not a value of the tag !!bool"),
        ("a: !!int 0x\n", "1: '0x' is not a value of the tag !!int"),
        ("a: 1" + "0" * 5000, "1: '10000"),
        ("a: 0x" + "f" * 5000, "1: '0xfff"),
        ("a: 1." + "0" * 5000, "1: '1.000"),
        ("a: " + "x" * 20_000, "1: has 20000 characters, but at most 10000 are possible"),
        ('a: "\\0"\n', "1: '\\x00' has a character that no file can hold"),
        ('a: "\\ud800"\n', "1: '\\ud800' has a character that no file can hold"),
        ('a: "\\U00110000"\n', "cannot be read as YAML"),
        ("%YAML 9.9\n---\na: 1\n", "1: YAML syntax error"),
    ],
    ids=lambda value: value[:20],
)  # fmt: skip
def test_yaml_that_no_config_is_gets_one_message_soon(refuse: Refuse, text: str, problem: str) -> None:
    began = time.monotonic()
    message = refuse(text)
    assert problem in message
    assert len(message) < 300
    assert "\n" not in message
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("value", ["!!timestamp x", "!!bool x", '!!int ""', "1" + "0" * 5000, "*x", "[" * 5000, "{a: "])
def test_an_override_of_that_kind_names_itself(refuse: Refuse, value: str) -> None:
    message = refuse(GPT, f"training.seed={value}")
    assert message.startswith("--set training.seed=")
    assert len(message) < 2500


@pytest.mark.parametrize(
    "piece", ["#", " ", "x", '"', "'", "a: b\n", "- ", "\n", "&a ", "1", "_1", "{", "? ", "!a ", "é"]
)
def test_no_text_is_read_for_long(piece: str) -> None:
    """PyYAML reads some 50 kB a second."""
    began = time.monotonic()
    for text in (piece * (499_000 // len(piece.encode())), "x: 1" + piece * (400_000 // len(piece.encode())) + "y"):
        with suppress(ConfigError):
            parse_yaml(text, "x")
    assert time.monotonic() - began < 10


def test_a_file_of_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_text("# \n" * 10**6)
    with pytest.raises(ConfigError, match="has 3000000 bytes, but at most 500000 are possible here"):
        load_config(path)


def test_a_pipe_and_a_device_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="is a pipe or a device, not a file"):
            load_config(path)


def test_an_anchor_gives_a_copy_each_time(load: Load) -> None:
    text = edited(GPT, "{lr: 0.01}", "&h {lr: 0.01}\nevaluation: {}") + "    init_scale: {uniform: &u [1, 2]}\n"
    config = load(text + "    temperature: {uniform: *u}\n", "search.space.temperature.uniform=[3, 4]")
    assert config.require_search().space["init_scale"].uniform == (1, 2)
    assert config.require_search().space["temperature"].uniform == (3, 4)


def test_of_merged_sections_the_first_counts_and_own_keys_before_them() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  x: 3\n"
    source = parse_yaml(text, "f")
    assert source.data["c"] == {"x": 3, "y": 1, "z": 2}
    assert (source.where(("c", "x")), source.where(("c", "z"))) == ("f:5", "f:2")


@pytest.mark.parametrize("text", ["2024-01-01", "=", "~", "12e3", "0x10", "1_000", "yes", "<<", "a: b", "\u2028"])
def test_text_is_written_so_that_it_is_read_as_text(text: str) -> None:
    assert parse_yaml(dump_yaml({"a": text}), "f").data == {"a": text}


def test_a_date_is_text_as_in_yaml_1_2(load: Load) -> None:
    assert load(edited(GPT, "name: tiny", "name: 2024-01-01")).name == "2024-01-01"


def test_a_message_repeats_no_control_character_and_no_megabyte(refuse: Refuse) -> None:
    message = refuse(edited(GPT, "steps: 12", f'steps: "\\e[31m{"x" * 9000}"'))
    assert message.startswith(f"{FILE}:4: training.steps: must be a whole number, but got '\\x1b[31mxxx")
    assert len(message) < 250
    assert "\x1b" not in refuse(edited(GPT, "steps: 12", '"\\e[31m": 12'))
