"""Pairs of sentences: the contract of data sources, what becomes of a sentence, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mutransfer.config.data import TranslationSection
from mutransfer.config.data.base import BEGIN, END, PAD, PAIR_SPECIALS
from mutransfer.data.dataset import IGNORED, notes_of
from mutransfer.data.pairs import PairDataset
from mutransfer.data.words import spaced, unspaced
from mutransfer.errors import DataError
from tests.conftest import real_data, write_pairs
from tests.contracts.data_sources import DataSourceContract, check_epochs, fresh

WORDS = {"kind": "words", "vocab_size": 40}


def section(path: Path, **fields: Any) -> TranslationSection:
    given = {"source_field": "de", "target_field": "en", "seq_len": 12, "tokenizer": WORDS, **fields}
    return TranslationSection.model_validate({"kind": "translation", "path": str(path), **given})


def lines(path: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    text = "".join(json.dumps({"de": one, "en": other}, ensure_ascii=False) + "\n" for one, other in pairs)
    path.write_text(text, encoding="utf-8")
    return path


def loaded(given: TranslationSection) -> PairDataset:
    data = fresh(given)
    assert isinstance(data, PairDataset)
    return data


class TestPairs(DataSourceContract):
    @pytest.fixture(params=["words", "bpe", "bytes"])
    def section(self, tmp_path: Path, request: pytest.FixtureRequest) -> TranslationSection:
        if request.param == "bpe":
            pytest.importorskip("tokenizers")
        write_pairs(tmp_path / "pairs.jsonl")
        tokenizer = {"words": WORDS, "bpe": {"kind": "bpe", "vocab_size": 300}, "bytes": "bytes"}[request.param]
        return section(tmp_path / "pairs.jsonl", tokenizer=tokenizer)

    @pytest.fixture
    def change(self, tmp_path: Path) -> Callable[[], None]:
        return lambda: write_pairs(tmp_path / "pairs.jsonl", 121)


class TestPairsWithFilesOfTheirOwn(DataSourceContract):
    @pytest.fixture
    def section(self, tmp_path: Path) -> TranslationSection:
        for name, count in (("pairs", 60), ("validation", 20), ("test", 10)):
            write_pairs(tmp_path / f"{name}.jsonl", count)
        others = {name: str(tmp_path / f"{name}.jsonl") for name in ("validation", "test")}
        return section(tmp_path / "pairs.jsonl", **others)

    @pytest.fixture
    def change(self, tmp_path: Path) -> Callable[[], None]:
        return lambda: write_pairs(tmp_path / "validation.jsonl", 21)


def test_every_pair_comes_once_an_epoch_and_none_is_in_both_parts(tmp_path: Path) -> None:
    pairs = [(" ".join(words), words[0]) for words in itertools.product("wxyz", repeat=3)]
    check_epochs(section(lines(tmp_path / "p.jsonl", pairs)))


def test_a_pair_becomes_source_what_the_decoder_has_read_and_targets(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", [("x x x y y", "b a a"), ("x", "a")] * 5)
    other = lines(tmp_path / "v.jsonl", [("x y z", "a b b b b b")])
    data = loaded(section(path, validation=str(other), seq_len=5))
    x, y, unknown, a, b = 4, 5, 3, 4, 5  # the tokenizer's <unk> is its 0; more frequent words come first
    (((source, read), targets),) = data.validation(batch_size=4, batches=1)
    assert source.tolist() == [[x, y, unknown, END, PAD]]
    assert read.tolist() == [[BEGIN, a, b, b, b]]
    assert targets.tolist() == [[a, b, b, b, b]]  # cut: its end is not there
    rows = set()
    for step in range(10):
        (source, read), targets = data.batch(step, batch_size=1, seed=0)
        rows.add((*source[0].tolist(), -1, *read[0].tolist(), -1, *targets[0].tolist()))
    assert rows == {
        (x, x, x, y, y, -1, BEGIN, b, a, a, END, -1, b, a, a, END, IGNORED),
        (x, END, PAD, PAD, PAD, -1, BEGIN, a, END, PAD, PAD, -1, a, END, IGNORED, IGNORED, IGNORED),
    }
    assert data.decode([a, b, END]) == "a b"
    assert PAIR_SPECIALS == 3


def test_long_pairs_are_cut_or_dropped_and_that_is_said(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", [("x", "a")] * 30 + [("x x x x", "a a a a")] * 10)
    for too_long, word, longest in (("truncate", "truncated", 4), ("drop", "dropped", 2)):
        data = loaded(section(path, seq_len=4, too_long=too_long))
        (note,) = notes_of(data)
        assert "pairs are longer" in note
        assert note.endswith(f"are {word}")
        lengths = [int((data.batch(step, batch_size=1, seed=0)[0][0] != PAD).sum()) for step in range(36)]
        assert max(lengths) == longest
    path = lines(tmp_path / "long.jsonl", [("x x x x", "a")] * 30)
    with pytest.raises(DataError, match="no pair is left for the training part"):
        fresh(section(path, seq_len=4, too_long="drop"))


def test_case_is_dropped_by_choice_and_words_that_are_rare_are_unknown(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", [("Ein Hund", "A dog")] * 5 + [("ein hund", "a dog")] * 15)
    plain, lower = loaded(section(path)), loaded(section(path, lowercase=True))
    assert {len(set(data.batch(0, batch_size=20, seed=0)[0][0].flat)) for data in (plain, lower)} == {6, 4}
    small = loaded(section(path, tokenizer={"kind": "words", "vocab_size": 8}, source_field="en", target_field="de"))
    assert notes_of(small) == ()
    pairs = [(f"w{number}", f"v{number}") for number in range(40)]
    (source, target) = notes_of(loaded(section(lines(path, pairs), tokenizer={"kind": "words", "vocab_size": 21})))
    assert source == "data.tokenizer: 44.4% of the words of de are outside the vocabulary of 21"
    assert " of en " in target


def test_ids_that_no_word_fills_say_nothing(tmp_path: Path) -> None:
    data = loaded(section(lines(tmp_path / "p.jsonl", [("x", "a b")] * 9)))
    assert data.decode([4, 30, 5]) == "a b"


def test_the_vocabulary_comes_from_the_training_part_alone(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", [("x", "a")] * 9)
    other = lines(tmp_path / "v.jsonl", [("secret", "secret")] * 9)
    data = loaded(section(path, validation=str(other), test=str(other)))
    (((source, _), targets),) = data.validation(batch_size=1, batches=1)
    assert source[0, 0] == targets[0, 0] == PAIR_SPECIALS  # <unk>
    assert data.held.sources[0] == [PAIR_SPECIALS, END]
    assert data.held.references[0] == "secret"


def test_metrics_are_over_the_test_file_or_else_the_validation_part(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", [(f"x{number}", f"a{number}") for number in range(40)])
    other = lines(tmp_path / "t.jsonl", [("t " * 30, "T  t!")])
    held = loaded(section(path)).held
    assert len(held.sources) == len(held.references) == 4
    held = loaded(section(path, test=str(other))).held
    assert held.references == ["T  t!"]  # as it stands in the file
    assert [len(source) for source in held.sources] == [12]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Zwei Männer, im Freien.", "Zwei Männer , im Freien ."),
        ("A man's t-shirt (red)!", "A man's t-shirt ( red ) !"),
        ('"Don’t"', '" Don’t "'),
    ],
)
def test_punctuation_stands_apart_from_words(text: str, words: str) -> None:
    assert spaced(text) == words


def test_decoding_puts_punctuation_back() -> None:
    assert unspaced(spaced("Zwei Männer, im Freien.")) == "Zwei Männer, im Freien."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": has no pairs"),
        ('{"de": "x"}\n', ":1: has no key 'en'; its keys are de"),
        ('{"de": "x", "en": "a"}\n\n{"de": "x", "en": 3}\n', ":3: en must be a text that is not empty, but got 3"),
        ('{"de": " ", "en": "a"}\n', ":1: de must be a text that is not empty, but got ' '"),
        ('["x", "a"]\n', ":1: must be a JSON object with two texts, but is a list"),
        ('{"de": "x", "en": \n', ":1: is not JSON: "),
        ('{"de": "x", "en": "a"}\n', ": too small to split: 1 pairs"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        fresh(section(path))
    assert str(caught.value).startswith(f"{path}{message}")


def test_files_that_are_no_text_or_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        fresh(section(tmp_path / "binary"))
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        fresh(section(lines(tmp_path / "p.jsonl", [("x", "a")] * 9), test=str(tmp_path / "gone.jsonl")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_field": "de"}, "is source_field too"),
        ({"validation": "v.jsonl", "validation_fraction": 0.2}, "has no effect with a validation file"),
        ({"tokenizer": {"kind": "words"}}, "needs it"),
        ({"seq_len": 1}, "greater than or equal to 2"),
    ],
)
def test_impossible_sections_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        section(Path("p.jsonl"), **fields)


def test_multi30k() -> None:
    train, held = (real_data("multi30k", f"{name}.jsonl") for name in ("train", "test"))
    data = loaded(
        section(train, test=str(held), lowercase=True, seq_len=24, tokenizer={"kind": "words", "vocab_size": 4000})
    )
    assert len(data.held.references) == 1000
    (source, read), _ = data.batch(0, batch_size=64, seed=0)
    assert np.mean(source != PAD) > 0.4
    assert len(notes_of(data)) == 3
    words = data.decode(read[0])
    assert words[0].islower()
    assert words.endswith(".")
