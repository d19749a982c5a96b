"""Shards: the same bytes however the work was interrupted or shared out, and read as one sequence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mutransfer.config.data import HuggingFaceTextSection, TextSection, TokenizerSection, TokensSection
from mutransfer.data import corpus as corpus_module
from mutransfer.data import prepare as prepare_module
from mutransfer.data import source as source_module
from mutransfer.data.prepare import PrepareNews, prepare
from mutransfer.data.shards import ShardedTokens, open_shards
from mutransfer.data.source import DataSource, source_of, source_of_files, tokenizer_of
from mutransfer.errors import DataError, Interrupted, UsageError
from mutransfer.testing.data_sources import TokenSourceContract, fresh
from tests.conftest import REPOSITORY

BPE = TokenizerSection(kind="bpe", vocab_size=300)
WORDS = TokenizerSection(kind="words", vocab_size=500)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small files have several pieces and batches."""
    monkeypatch.setattr(corpus_module, "_BLOCK", 200)
    monkeypatch.setattr(source_module, "_CHUNK", 150)
    monkeypatch.setattr(prepare_module, "_BATCH", 700)


def write_corpus(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in ("a", "b"):
        lines = [f"{name} line {number} {'word ' * (number % 7)}{number * 31 % 97}" for number in range(150)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [{"id": number, "text": f"row {number}\n" + f"more {number % 13} " * (number % 50)} for number in range(120)]
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "in")
    return tmp_path


def everything(home: Path) -> DataSource:
    pytest.importorskip("datasets")
    return source_of_files([str(home / "in" / "*")], column="text", raw=False)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}


def test_shards_hold_what_the_tokenizer_gives_for_the_documents(home: Path) -> None:
    index = prepare(everything(home), WORDS, home / "out", shard_tokens=300)
    tokens, read = open_shards(home / "out")
    assert read == index
    assert [shard["tokens"] for shard in index["shards"][:-1]] == [300] * (len(index["shards"]) - 1)
    assert 0 < index["shards"][-1]["tokens"] <= 300
    assert sum(shard["tokens"] for shard in index["shards"]) == index["tokens"] == len(tokens)
    assert set(files(home / "out")) == {"index.json", "vocabulary.json", *(s["file"] for s in index["shards"])}
    vocabulary = json.loads((home / "out" / "vocabulary.json").read_text())["words"]
    text = " ".join(vocabulary[index] for index in np.asarray(tokens)).replace("<eos>", "")
    whole = (home / "in" / "a.txt").read_text() + (home / "in" / "b.txt").read_text()
    whole += "".join(json.loads(line)["text"] + "\n" for line in (home / "in" / "c.jsonl").read_text().splitlines())
    assert text.split() == whole.split()


def test_the_size_of_shards_makes_no_difference_to_batches(home: Path) -> None:
    sections = []
    for size in (37, 1000, 10**6):
        index = prepare(everything(home), WORDS, home / str(size), shard_tokens=size)
        sections.append(TokensSection(kind="tokens", path=str(home / str(size)), vocab_size=500, seq_len=50))
    assert len(index["shards"]) == 1
    loaded = [fresh(section) for section in sections]
    for step in range(5):
        batches = [data.batch(step, batch_size=16, seed=3) for data in loaded]
        assert all(np.array_equal(batches[0][0], other[0]) for other in batches[1:])
        assert all(np.array_equal(batches[0][1], other[1]) for other in batches[1:])
    validations = [list(data.validation(batch_size=8, batches=9)) for data in loaded]
    assert len(validations[0]) == len(validations[1]) == len(validations[2]) > 0
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(validations[0], validations[1], strict=True))


@pytest.mark.parametrize("tokenizer", ["words", "bpe", "bytes"])
def test_interrupted_after_every_batch_it_ends_with_the_same_bytes(home: Path, tokenizer: str) -> None:
    section = TokenizerSection(kind=tokenizer, vocab_size=None if tokenizer == "bytes" else 300)  # type: ignore[arg-type]
    prepare(everything(home), section, home / "whole", shard_tokens=300)
    stops = 0
    while True:
        try:
            prepare(everything(home), section, home / "parts", shard_tokens=300, **stop_after(4))
            break
        except Interrupted:
            assert not (home / "parts" / "index.json").exists()
            stops += 1
            assert stops < 200
    assert stops > 3
    assert files(home / "parts") == files(home / "whole")


def test_workers_make_the_same_bytes(home: Path) -> None:
    prepare(everything(home), WORDS, home / "one", shard_tokens=300)
    prepare(everything(home), WORDS, home / "two", shard_tokens=300, workers=2)
    assert files(home / "one") == files(home / "two")


PROGRAM = """
import sys, time
from pathlib import Path
from mutransfer.config.data import TokenizerSection
from mutransfer.data import corpus, prepare, source
corpus._BLOCK, source._CHUNK, prepare._BATCH = 200, 150, 700
home = Path(sys.argv[1])
if __name__ == "__main__":
    prepare.prepare(
        source.source_of_files([str(home / "in" / "*")], column="text", raw=False),
        TokenizerSection(kind="words", vocab_size=500), home / "killed", shard_tokens=300, workers=int(sys.argv[2]),
        on_progress=lambda progress: time.sleep(0.03),
    )
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_some_moment_it_goes_on_to_the_same_bytes_and_no_worker_stays(home: Path, workers: int) -> None:
    prepare(everything(home), WORDS, home / "whole", shard_tokens=300)
    program = home / "program.py"
    program.write_text(PROGRAM)
    begun = subprocess.Popen(
        [sys.executable, str(program), str(home), str(workers)],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    for _ in range(3000):
        if len(list((home / "killed").glob("shard-*.bin"))) >= 4:
            break
        assert begun.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    begun.kill()
    begun.wait()
    kept = sorted(path.name for path in (home / "killed").glob("shard-*.bin"))
    assert not (home / "killed" / "index.json").exists()
    (home / "killed" / f".shard-{len(kept):05d}.bin.partial").write_bytes(b"half")
    prepare(everything(home), WORDS, home / "killed", shard_tokens=300)
    assert files(home / "killed") == files(home / "whole")
    for _ in range(500):
        try:
            os.killpg(begun.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.01)
    else:
        os.killpg(begun.pid, signal.SIGKILL)
        pytest.fail("a worker stayed behind")


def stop_after(batches: int) -> dict[str, Any]:
    """Arguments that stop the work after so many batches of tokens."""
    seen: list[PrepareNews] = []
    return {
        "should_stop": lambda: len(seen) >= batches,
        "on_progress": lambda progress: seen.append(progress) if progress.phase == "tokens" else None,
    }


def begin(home: Path) -> None:
    with pytest.raises(Interrupted):
        prepare(everything(home), WORDS, home / "out", shard_tokens=300, **stop_after(6))
    assert (home / "out" / "shard-00000.bin").exists()


def test_nothing_is_overwritten(home: Path) -> None:
    prepare(everything(home), WORDS, home / "out", shard_tokens=300)
    before = files(home / "out")
    with pytest.raises(UsageError, match=r"out: is prepared already \([\d,]+ tokens\); name another folder with --out"):
        prepare(everything(home), WORDS, home / "out", shard_tokens=300)
    with pytest.raises(UsageError, match=r"in: is not empty \(.* is there\)"):
        prepare(everything(home), WORDS, home / "in", shard_tokens=300)
    with pytest.raises(UsageError, match="is a file, but must be a folder"):
        prepare(everything(home), WORDS, home / "in" / "a.txt")
    assert files(home / "out") == before


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda home: {"shard_tokens": 301}, "shard_tokens"),
        (lambda home: (home / "in" / "a.txt").write_text("other") and {}, "source"),
        (lambda home: {"sample": 5}, "sample"),
    ],
)
def test_shards_are_not_continued_with_another_corpus_or_other_settings(
    home: Path, change: Callable[[Path], dict[str, Any]], what: str
) -> None:
    begin(home)
    options = change(home)
    with pytest.raises(UsageError, match=rf"unfinished shards of other settings or data \(different: {what}\)"):
        prepare(everything(home), WORDS, home / "out", **{"shard_tokens": 300, **options})
    with pytest.raises(UsageError, match=r"different: .*tokenizer") as caught:
        prepare(everything(home), TokenizerSection(kind="words", vocab_size=499), home / "out", shard_tokens=300)
    assert caught.value.exit_code == 2


def test_a_damaged_shard_is_found_before_it_is_continued(home: Path) -> None:
    begin(home)
    shard = home / "out" / "shard-00000.bin"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    with pytest.raises(DataError, match=r"shard-00000\.bin: is damaged; remove .* and prepare the data again"):
        prepare(everything(home), WORDS, home / "out", shard_tokens=300)


def test_a_stop_while_the_tokenizer_is_trained_is_a_stop(home: Path) -> None:
    for kind in ("words", "bpe"):
        section = TokenizerSection(kind=kind, vocab_size=300)  # type: ignore[arg-type]
        with pytest.raises(Interrupted, match="stopped before the first shard"):
            prepare(everything(home), section, home / kind, should_stop=lambda: True)
        prepare(everything(home), section, home / kind)


def test_a_source_without_text_or_with_a_bad_row_is_refused(home: Path) -> None:
    (home / "empty.txt").write_text("")
    with pytest.raises(DataError, match="the source has no text, so there is nothing to write"):
        prepare(source_of_files([str(home / "empty.txt")], column="text", raw=False), BPE, home / "out")
    (home / "bad.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl: row 1: column 'text' must be text, but got None"):
        prepare(source_of_files([str(home / "bad.jsonl")], column="text", raw=False), WORDS, home / "bad")
    (home / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt: is not UTF-8 text; only the tokenizer bytes reads any file"):
        prepare(source_of_files([str(home / "latin.txt")], column="text", raw=False), WORDS, home / "latin")


def test_bytes_are_taken_as_they_are(home: Path) -> None:
    content = bytes(range(256)) * 5 + b"\r\n\r"
    (home / "any.bin").write_bytes(content)
    section = tokenizer_of("bytes", None, None)
    prepare(source_of_files([str(home / "any.bin")], column="text", raw=True), section, home / "out")
    tokens, index = open_shards(home / "out")
    assert np.asarray(tokens).astype(np.uint8).tobytes() == content + b"\n"
    assert (index["dtype"], index["vocab_size"]) == ("uint16", 256)


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_a_prepared_config_gives_the_batches_of_the_config_itself(home: Path, kind: str) -> None:
    """With a validation part of its own; a fraction is taken of text by the one and of tokens by the other."""
    tokenizer = TokenizerSection(kind=kind, vocab_size=300)  # type: ignore[arg-type]
    pytest.importorskip("datasets")
    (home / "valid.txt").write_text((home / "in" / "a.txt").read_text()[:1500])
    (home / "valid.jsonl").write_text('{"text": "more 5 row 7"}\n' * 50)
    for name, section in {
        "text": TextSection(kind="text", paths=(f"{home}/in/*.txt",), validation_paths=(f"{home}/valid.txt",),
                            tokenizer=tokenizer, seq_len=16),
        "rows": HuggingFaceTextSection(kind="huggingface-text", files=(f"{home}/in/c.jsonl",), tokenizer=tokenizer,
                                       validation_files=(f"{home}/valid.jsonl",), seq_len=16),
    }.items():  # fmt: skip
        direct = fresh(section)
        index = prepare(source_of(section), tokenizer, home / name, shard_tokens=500)
        assert index["held_out"] > 0
        shards = fresh(TokensSection(kind="tokens", path=str(home / name), vocab_size=index["vocab_size"], seq_len=16))
        for one, other in zip(direct.validation(batch_size=4, batches=99), shards.validation(batch_size=4, batches=99),
                              strict=True):  # fmt: skip
            assert np.array_equal(one[0], other[0])
        assert np.array_equal(direct.batch(3, batch_size=8, seed=1)[0], shards.batch(3, batch_size=8, seed=1)[0])


class TestShards(TokenSourceContract):
    @pytest.fixture
    def section(self, home: Path) -> TokensSection:
        prepare(source_of_files([f"{home}/in/*.txt"], column="text", raw=False), WORDS, home / "out", shard_tokens=99)
        return TokensSection(kind="tokens", path=str(home / "out"), vocab_size=500, seq_len=16)

    @pytest.fixture
    def change(self, home: Path) -> Callable[[], None]:
        def again() -> None:
            for path in (home / "out").iterdir():
                path.unlink()
            text = (home / "in" / "a.txt").read_text()
            (home / "in" / "a.txt").write_text(text.replace("line 7", "line 8", 1))
            source = source_of_files([f"{home}/in/*.txt"], column="text", raw=False)
            prepare(source, WORDS, home / "out", shard_tokens=99)

        return again


def test_slices_cross_from_shard_to_shard() -> None:
    whole = np.arange(100, dtype=np.uint16)
    shards = ShardedTokens([whole[:10], whole[10:11], whole[11:60], whole[60:]], "x")
    assert len(shards) == 100
    for begin in range(0, 100, 7):
        for end in range(begin, 101, 9):
            part = shards[begin:end]
            assert len(part) == end - begin
            assert np.asarray(part).tolist() == whole[begin:end].tolist()
            assert np.asarray(part[2:5]).tolist() == whole[begin:end][2:5].tolist()
    with pytest.raises(ValueError, match="consecutive"):
        shards[::2]


def refused(section: TokensSection) -> str:
    with pytest.raises(DataError) as caught:
        fresh(section)
    return str(caught.value)


def test_folders_that_hold_no_whole_shards_are_refused(home: Path) -> None:
    out = home / "out"
    section = TokensSection(kind="tokens", path=str(out), vocab_size=500, seq_len=16)
    begin(home)
    assert refused(section) == f"{out}: is not prepared completely; the same `mutransfer prepare` continues it"
    prepare(everything(home), WORDS, out, shard_tokens=300)
    fewer = section.model_copy(update={"vocab_size": 499})
    assert refused(fewer) == f"{out}: has token ids below 500, but data.vocab_size is 499"
    shard = out / "shard-00001.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    assert refused(section).startswith(f"{shard}: has 598 bytes, but its 300 tokens take 600; it is damaged")
    shard.unlink()
    assert refused(section) == f"{shard}: no such file, but {out / 'index.json'} lists it"
    shard.write_bytes(whole)
    fresh(section)
    (out / "index.json").write_text((out / "index.json").read_text()[:100])
    message = refused(section)
    assert message.startswith(f"{out / 'index.json'}: is damaged (is not JSON: ")
    assert message.endswith("); remove its folder and prepare the data again")
