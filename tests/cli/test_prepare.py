"""`mutransfer prepare` from the outside: results, refusals, and a stop in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import GPT, files, invoke
from tests.conftest import REPOSITORY, TEXT

WORDS = ("--tokenizer", "words", "--vocab-size", "400")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "gpt.yaml").write_text(GPT, encoding="utf-8")
    return tmp_path


def test_files_to_shards_that_a_run_trains_on(home: Path) -> None:
    code, stdout, stderr = invoke("prepare", "--input", "*.txt", *WORDS, "--out", "out", "--shard-tokens", "500")
    assert code == 0
    lines = stdout.splitlines()
    assert lines[0] == "2,200 tokens below 400 in 5 shards of uint16 (4.4 kB) in out"
    assert lines[1] == "Use them with  data: {kind: tokens, path: out, vocab_size: 400, seq_len: 64}"
    assert stderr.startswith("Training the tokenizer\n")
    assert "\nWriting shards\n" in stderr
    assert " kB read: 2.2 k tokens in 4 whole shards, " in stderr
    (home / "shards.yaml").write_text(
        GPT.replace("{kind: text, paths: [corpus.txt], seq_len: 16}", lines[1].partition("data: ")[2]), encoding="utf-8"
    )
    code, stdout, _ = invoke("train", "shards.yaml", "--set", "data.seq_len=16")
    assert code == 0
    assert "validation loss" in stdout


def test_a_config_to_shards_as_json(home: Path) -> None:
    tokenizer = "data.tokenizer={kind: words, vocab_size: 400}"
    code, stdout, _ = invoke("prepare", "gpt.yaml", "--set", tokenizer, "--out", "out", "--json")
    answer = json.loads(stdout)
    assert code == 0
    assert (answer["out"], answer["tokens"], answer["vocab_size"], answer["dtype"]) == ("out", 2200, 400, "uint16")
    assert [shard["tokens"] for shard in answer["shards"]] == [2200]
    assert answer["next"] == "data: {kind: tokens, path: out, vocab_size: 400, seq_len: 64}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("gpt.yaml", "--out: is required: the folder for the shards"),
        ("--out out", "give either a CONFIG, whose data section is prepared, or --input files"),
        ("gpt.yaml --input corpus.txt --out out", "give either a CONFIG, whose data section is prepared, or"),
        ("gpt.yaml --tokenizer words --out out", "--tokenizer: belongs to --input; in a CONFIG it stands in the data"),
        ("--input corpus.txt --set a=1 --out out", "--set: belongs to a CONFIG, not to --input"),
        ("--input gone.txt --out out", "--input: gone.txt: matches no file"),
        ("--input corpus.txt --tokenizer words --out out", "--vocab-size: tokenizer kind words needs it"),
        (
            "--input corpus.txt --tokenizer wrods --vocab-size 400 --out out",
            "--tokenizer wrods: no such file or kind of tokenizer; did you mean words? give bytes, words, bpe",
        ),
        ("--input empty.txt --out out/deeper", "out/deeper: the source has no text, so there is nothing to write"),
        ("--input corpus.txt --eos x --out out", "--eos: has no effect with tokenizer kind bytes"),
        ("--input corpus.txt --out .", ".: is not empty ("),
        ("--input corpus.txt --out corpus.txt", "corpus.txt: is a file, but must be a folder"),
        ("gpt.yaml --set data={kind:digits} --out out", "--set data"),
    ],
)
def test_what_cannot_be_prepared_is_refused_and_nothing_written(home: Path, arguments: str, message: str) -> None:
    (home / "empty.txt").touch()
    before = files(home)
    code, stdout, stderr = invoke("prepare", *arguments.split())
    assert (code, stdout) == (2, "")
    assert stderr.rpartition("error: ")[2].startswith(message)
    code, stdout, _ = invoke("prepare", *arguments.split(), "--json")
    assert code == 2
    assert json.loads(stdout)["error"]["message"].startswith(message)
    assert files(home) == before


def test_data_without_text_is_refused(home: Path) -> None:
    (home / "mlp.yaml").write_text(
        "name: x\nmodel: {kind: mlp, width: 16, base_width: 16}\ndata: {kind: digits}\n", encoding="utf-8"
    )
    code, _, stderr = invoke("prepare", "mlp.yaml", "--out", "out")
    assert code == 2
    assert stderr.startswith("error: data kind digits has no text to prepare; use a data kind with text, for example")


def test_ctrl_c_keeps_whole_shards_and_the_command_it_names_goes_on(home: Path) -> None:
    (home / "corpus.txt").write_text(TEXT * 300, encoding="utf-8")
    arguments = ["prepare", "--input", "corpus.txt", *WORDS, "--shard-tokens", "5000", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    begun = subprocess.Popen(
        [sys.executable, "-m", "mutransfer", *arguments, "out"], env=environment, stderr=subprocess.PIPE, text=True
    )
    while not list((home / "out").glob("shard-*.bin")):
        assert begun.poll() is None, "it ended before it could be stopped"
        time.sleep(0.005)
    begun.send_signal(signal.SIGINT)
    stderr = begun.communicate(timeout=60)[1]
    assert begun.returncode == 4, stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("error: out: stopped; ")
    command = last.partition("; continue: ")[2].split()
    assert command[:2] == ["mutransfer", "prepare"]
    assert not (home / "out" / "index.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (home / "out").glob("shard-*.bin")}
    assert invoke(*command[1:])[0] == 0
    assert {name: (home / "out" / name).stat().st_mtime_ns for name in kept} == kept, "whole shards are not made again"
    assert invoke(*arguments, "whole")[0] == 0
    one, other = files(home / "out"), files(home / "whole")
    assert one == other
    code, _, stderr = invoke(*arguments, "out")
    assert code == 2
    assert stderr.startswith("error: out: is prepared already (")
