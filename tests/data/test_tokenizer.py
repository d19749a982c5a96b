"""Tokenizers: what they give for what text, that training is a function of the text, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from mutransfer.config.base import FieldProblem
from mutransfer.config.data import TextSection, TokenizerField, TokenizerSection
from mutransfer.data.tokenizer import (
    BOS,
    EOS,
    PAD,
    PAIR_SPECIALS,
    UNK,
    Tokenizer,
    Words,
    open_tokenizer,
    restore,
)
from mutransfer.errors import DataError
from tests.conftest import TEXT, real_data

KINDS = ["bytes", "words", "bpe", "file"]


def section(given: Any) -> TokenizerSection:
    return TypeAdapter(TokenizerField).validate_python(given)


def opened(kind: str, tmp_path: Path, text: str = TEXT, **options: Any) -> Tokenizer:
    if kind == "file":
        return open_tokenizer(section({"file": str(write_file(tmp_path))}), lambda: [text], **options)
    given = {"kind": kind} if kind == "bytes" else {"kind": kind, "vocab_size": 600 if kind == "words" else 300}
    return open_tokenizer(section(given), lambda: [text], **options)


def write_file(folder: Path, **changes: Any) -> Path:
    """A byte-level tokenizer.json with truncation and padding on, as models publish them."""
    library = pytest.importorskip("tokenizers")
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", "<s>", "</s>", "<unk>"], show_progress=False,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator([TEXT], trainer)
    made.enable_truncation(3)
    made.enable_padding(length=50)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(made.to_str()), **changes}), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["to be or not\nto be\n", "a", "", "ümläut – ✓ \t <unk> <eos>\n\nend"])
def test_ids_are_below_the_vocabulary_and_lead_back_to_the_text(kind: str, text: str, tmp_path: Path) -> None:
    tokenizer = opened(kind, tmp_path, TEXT + text)
    ids = tokenizer.encode(text)
    assert ids.ndim == 1
    assert ids.dtype.kind == "u"
    assert (ids < tokenizer.vocab_size).all()
    if kind == "words":  # white space is not kept
        assert tokenizer.decode(ids).split() == text.replace("<eos>", "").split()
    elif kind == "file":
        assert tokenizer.decode(ids) == text.replace("<unk>", "")  # that file's own special token
    else:
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_is_the_same_after_dump_and_restore(kind: str, tmp_path: Path) -> None:
    tokenizer = opened(kind, tmp_path, specials=PAIR_SPECIALS)
    again = restore(tokenizer.dump())
    assert again.fingerprint == tokenizer.fingerprint
    assert again.specials == tokenizer.specials
    assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert again.end.tolist() == tokenizer.end.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_lines_are_encoded_each_by_itself_without_special_tokens(kind: str, tmp_path: Path) -> None:
    tokenizer = opened(kind, tmp_path, specials=PAIR_SPECIALS)
    lines = ["to be", "or not to be, 7 times", ""]
    encoded = tokenizer.encode_lines(lines)
    assert [tokenizer.decode(ids) for ids in encoded] == lines
    assert len(encoded[2]) == 0
    special = {tokenizer.specials[name] for name in (PAD, BOS, EOS)}
    assert not special & {int(index) for ids in encoded for index in ids}
    assert set(tokenizer.specials) == {PAD, BOS, EOS, UNK}
    assert len(set(tokenizer.specials.values())) == 4
    assert all(0 <= index < tokenizer.vocab_size for index in tokenizer.specials.values())
    with_them = np.array([tokenizer.specials[BOS], *encoded[0], tokenizer.specials[PAD]])
    assert tokenizer.decode(with_them) == lines[0]


def test_bytes_are_byte_values() -> None:
    tokenizer = opened("bytes", Path())
    assert tokenizer.encode("aé\n").tolist() == list("aé\n".encode())
    assert section("bytes").ids() == 256


def test_words_are_ranked_by_frequency_and_then_by_the_alphabet() -> None:
    text = "b a b c\na  b <unk>\td\n"
    tokenizer = open_tokenizer(section({"kind": "words", "vocab_size": 8}), lambda: [text])
    assert isinstance(tokenizer, Words)
    assert tokenizer._words == [UNK, EOS, "b", "a", "c", "d"]
    assert tokenizer.encode(text).tolist() == [2, 3, 2, 4, 1, 3, 2, 0, 5, 1]
    assert tokenizer.encode("new b").tolist() == [0, 2, 1]
    smaller = open_tokenizer(section({"kind": "words", "vocab_size": 8}), lambda: [text + "e f g h"])
    assert isinstance(smaller, Words)
    assert smaller._words == [UNK, EOS, "b", "a", "c", "d", "e", "f"]


@pytest.mark.parametrize(
    ("text", "ends"), [("", 1), ("\n", 1), ("a", 1), ("a\n", 1), ("a\nb", 2), ("a\n\nb\n", 3), ("a\n\n", 2)]
)
def test_every_line_of_words_has_one_end(text: str, ends: int) -> None:
    tokenizer = open_tokenizer(section({"kind": "words", "vocab_size": 8}), lambda: ["a b"])
    assert tokenizer.encode(text).tolist().count(tokenizer.specials[EOS]) == ends


def test_special_tokens_in_the_text_of_bpe_are_text(tmp_path: Path) -> None:
    tokenizer = opened("bpe", tmp_path)
    assert tokenizer.specials[EOS] not in tokenizer.encode("a <eos> b").tolist()
    assert tokenizer.end.tolist() == [tokenizer.specials[EOS]]


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_training_is_a_function_of_the_text_in_every_process(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    program = (
        "from mutransfer.config.data import TokenizerSection\n"
        "from mutransfer.data.tokenizer import open_tokenizer\n"
        "from tests.conftest import TEXT\n"
        f"given = TokenizerSection(kind={kind!r}, vocab_size={600 if kind == 'words' else 300})\n"
        "print(open_tokenizer(given, lambda: [TEXT]).fingerprint)"
    )
    here = opened(kind, tmp_path).fingerprint
    there = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()
    assert there == here
    assert opened(kind, tmp_path, TEXT.replace("be", "do")).fingerprint != here


def test_a_trained_tokenizer_is_kept_under_its_key(tmp_path: Path) -> None:
    calls: list[int] = []

    def texts() -> list[str]:
        calls.append(1)
        return [TEXT]

    given = section({"kind": "words", "vocab_size": 50})
    first = open_tokenizer(given, texts, key="one")
    assert open_tokenizer(given, texts, key="one").fingerprint == first.fingerprint
    assert len(calls) == 1
    open_tokenizer(given, texts, key="two")
    open_tokenizer(given, texts, key="one", specials=PAIR_SPECIALS)
    open_tokenizer(section({"kind": "words", "vocab_size": 40}), texts, key="one")
    assert len(calls) == 4


def test_the_size_of_a_file_is_read_once_and_then_stated(tmp_path: Path) -> None:
    path = write_file(tmp_path)
    given = section({"file": str(path)})
    assert (given.kind, given.ids()) == ("file", 320)
    path.unlink()
    assert section(given.model_dump(exclude_none=True)) == given  # as a run folder's config has it
    unigram = {
        "model": {"type": "Unigram", "vocab": [["a", 0], ["b", -1]]},
        "added_tokens": [{"id": 5, "content": "x"}],
    }
    path.write_text(json.dumps(unigram))
    assert section({"file": str(path)}).ids() == 6


def test_what_a_file_says_of_truncation_and_padding_is_left_aside(tmp_path: Path) -> None:
    tokenizer = opened("file", tmp_path)
    assert len(tokenizer.encode(TEXT)) > 50
    assert 0 < len(tokenizer.encode("be")) < 3


def test_documents_of_a_file_end_with_the_token_named(tmp_path: Path) -> None:
    path = str(write_file(tmp_path))
    named = open_tokenizer(section({"file": path, "eos": "</s>"}), list)
    assert named.end.tolist() == [2]
    unnamed = open_tokenizer(section({"file": path}), list)
    assert unnamed.decode(unnamed.end) == "\n"
    with pytest.raises(DataError, match=r"has no token '<end>', which data\.tokenizer\.eos names"):
        open_tokenizer(section({"file": path, "eos": "<end>"}), list)


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = write_file(tmp_path)
    with pytest.raises(DataError, match=r"has 320 token ids, but data\.tokenizer\.vocab_size is 319"):
        open_tokenizer(section({"file": str(path), "vocab_size": 319}), list)
    path.write_text(path.read_text().replace('"<pad>"', '"<filler>"'))
    with pytest.raises(DataError, match=r"has no token for <pad>: none of <pad>, \[PAD\]"):
        open_tokenizer(section({"file": str(path)}), list, specials=PAIR_SPECIALS)
    path.write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json: is not a tokenizer\.json of the tokenizers library"):
        open_tokenizer(section({"file": str(path), "vocab_size": 319}), list)
    with pytest.raises(DataError, match="no such file"):
        open_tokenizer(section({"file": str(tmp_path / "gone"), "vocab_size": 319}), list)


@pytest.mark.parametrize(
    ("given", "field", "problem"),
    [
        ("words", "vocab_size", "tokenizer kind words needs it"),
        ({"kind": "bpe"}, "vocab_size", "tokenizer kind bpe needs it"),
        ({"kind": "bpe", "vocab_size": 100}, "vocab_size", "must be at least 264"),
        ({"kind": "words", "vocab_size": 2}, "vocab_size", "must be at least 8"),
        ({"kind": "bytes", "vocab_size": 256}, "vocab_size", "has no effect"),
        ({"kind": "words", "vocab_size": 9, "eos": "x"}, "eos", "has no effect"),
        ({"kind": "words", "vocab_size": 9, "file": "x"}, "file", "belongs to tokenizer kind file"),
        ("file", "file", "belongs to tokenizer kind file"),
        ({"file": "gone.json"}, "file", "no such file"),
    ],
)
def test_sections_that_make_no_tokenizer_are_refused(given: Any, field: str, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        section(given)
    cause = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(cause, FieldProblem)
    assert cause.path == (field,)
    assert problem in str(cause)


@pytest.mark.parametrize("content", ["[]", "not json", '{"model": {}}', '{"model": {"vocab": {}}}'])
def test_a_file_whose_size_cannot_be_read_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ValidationError, match=r"is not a tokenizer\.json"):
        section({"file": str(path)})


def test_a_missing_extra_is_answered_with_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"needs the extra 'hf' .*pip install 'mutransfer\[hf\]'"):
        open_tokenizer(section({"kind": "bpe", "vocab_size": 300}), list)


@pytest.mark.parametrize(
    ("file", "published", "lines", "lines_here"), [("valid", 217_646, 3_760, 2_588), ("test", 245_569, 4_358, 3_030)]
)
def test_wikitext_2_has_its_published_number_of_words(file: str, published: int, lines: int, lines_here: int) -> None:
    """The published numbers count an `<eos>` per line; the files here lack most of the blank ones."""
    text = real_data("wikitext2", f"{file}.txt").read_text(encoding="utf-8")
    tokenizer = open_tokenizer(section({"kind": "words", "vocab_size": 33_278}), lambda: [text])
    ids = tokenizer.encode(text)
    ends = int((ids == tokenizer.specials[EOS]).sum())
    assert len(ids) - ends == published - lines
    assert ends == lines_here
    assert isinstance(tokenizer, Words)
    assert len(tokenizer._words) - 2 == len(set(text.split())) - 1 < 33_278
    assert ids.max() == len(tokenizer._words) - 1, "every word fits in the published vocabulary"


def test_text_sections_take_a_tokenizer_in_its_short_forms(corpus: Path) -> None:
    short: Callable[[Any], TextSection] = lambda given: TextSection.model_validate(  # noqa: E731
        {"kind": "text", "paths": [str(corpus)], "tokenizer": given}
    )
    assert short("bytes") == TextSection(kind="text", paths=(str(corpus),))
    assert short({"kind": "words", "vocab_size": 99}).spec.vocab_size == 99
