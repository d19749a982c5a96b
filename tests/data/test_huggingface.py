"""Rows of the `datasets` library from local files, and what is said when the hub or a column cannot be had."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mutransfer.config.base import FieldProblem
from mutransfer.config.data import (
    HuggingFaceImagesSection,
    HuggingFaceTextSection,
    ParquetImagesSection,
    TextSection,
    TokenizerSection,
)
from mutransfer.data.rows import Origin, rows
from mutransfer.errors import DataError
from mutransfer.testing.data_sources import DataSourceContract, TokenSourceContract, check_epochs, fresh
from tests.conftest import TEXT, real_data
from tests.data.test_sources import encoded, write_images

datasets = pytest.importorskip("datasets")
WORDS = TokenizerSection(kind="words", vocab_size=500)


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test waits for a network or reads the user's own downloads."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))


def write_rows(path: Path, texts: list[Any], column: str = "text") -> Path:
    if path.suffix == ".parquet":
        datasets.Dataset.from_dict({"id": list(range(len(texts))), column: texts}).to_parquet(str(path))
    else:
        content = "".join(json.dumps({"id": row, column: text}) + "\n" for row, text in enumerate(texts))
        path.write_text(content, encoding="utf-8")
    return path


LINES = TEXT.splitlines()


class TestJsonLines(TokenSourceContract):
    ENDING = ".jsonl"
    TOKENIZER = TokenizerSection()

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / f"rows{self.ENDING}"

    @pytest.fixture
    def section(self, path: Path) -> HuggingFaceTextSection:
        write_rows(path, LINES)
        return HuggingFaceTextSection(kind="huggingface-text", files=(str(path),), tokenizer=self.TOKENIZER, seq_len=16)

    @pytest.fixture
    def change(self, path: Path) -> Callable[[], None]:
        return lambda: write_rows(path, [*LINES[:9], "be or not", *LINES[10:]]) and None

    def test_the_ids_come_from_the_cache_the_second_time(self, section: Any, monkeypatch: Any) -> None:
        before = fresh(section).fingerprint
        monkeypatch.setattr("mutransfer.data.huggingface.rows", None)
        assert fresh(section).fingerprint == before

    def test_a_limit_takes_the_first_rows_only(self, section: Any, path: Path) -> None:
        limited = fresh(section.model_copy(update={"limit": 50})).fingerprint
        write_rows(path, LINES[:50])
        assert fresh(section).fingerprint == limited


class TestParquetWords(TestJsonLines):
    ENDING = ".parquet"
    TOKENIZER = WORDS


class TestParquetBpe(TestJsonLines):
    ENDING = ".parquet"
    TOKENIZER = TokenizerSection(kind="bpe", vocab_size=300)


class TestTextWords(TokenSourceContract):
    """Kind `text` with a tokenizer other than bytes."""

    KIND = "words"

    @pytest.fixture
    def section(self, corpus: Path) -> TextSection:
        tokenizer = TokenizerSection(kind=self.KIND, vocab_size=800)  # type: ignore[arg-type]
        return TextSection(kind="text", paths=(str(corpus),), tokenizer=tokenizer, seq_len=16)

    @pytest.fixture
    def change(self, corpus: Path) -> Callable[[], None]:
        return lambda: corpus.write_text(TEXT.replace("to be", "be to", 1), encoding="utf-8") and None

    def test_a_validation_part_of_its_own_is_all_of_the_validation_part(self, section: Any, corpus: Path) -> None:
        other = corpus.with_name("valid.txt")
        other.write_text("unseen words only\n" * 40, encoding="utf-8")
        data = fresh(section.model_copy(update={"validation_paths": (str(other),)}))
        held_out = [row for inputs, _ in data.validation(batch_size=4, batches=99) for row in inputs.tolist()]
        if self.KIND == "words":
            # The vocabulary is of the training part, so these are all unknown: <unk> ×3, <eos>.
            assert set(np.ravel(held_out)) == {0, 1}
            assert len(held_out) == (40 * 4 - 1) // 16
        trained = {token for step in range(50) for token in data.batch(step, batch_size=8, seed=0)[0].flat}
        assert 0 not in trained


class TestTextBpe(TestTextWords):
    KIND = "bpe"


def test_text_as_bytes_with_a_validation_part_of_its_own(corpus: Path) -> None:
    other = corpus.with_name("valid.txt")
    other.write_text("Z" * 100, encoding="utf-8")
    section = TextSection(kind="text", paths=(str(corpus),), validation_paths=(str(other),), seq_len=16)
    data = fresh(section)
    ((held_out, targets),) = data.validation(batch_size=99, batches=9)
    assert held_out.shape == (6, 16)
    assert set(held_out.flat) | set(targets.flat) == {ord("Z")}
    assert ord("Z") not in {token for step in range(50) for token in data.batch(step, batch_size=8, seed=0)[0].flat}


def test_the_vocabulary_is_of_the_training_part_alone(corpus: Path) -> None:
    """With a fraction held out too: words that only its tail has are unknown."""
    corpus.write_text("common words here\n" * 90 + "rare tail only\n" * 10, encoding="utf-8")
    data = fresh(TextSection(kind="text", paths=(str(corpus),), tokenizer=WORDS, seq_len=4, validation_fraction=0.09))
    ((held_out, _),) = data.validation(batch_size=99, batches=1)
    assert set(held_out.flat) == {0, 1}
    trained = {token for step in range(50) for token in data.batch(step, batch_size=8, seed=0)[0].flat}
    assert {2, 3, 4} <= trained


class TestImages(DataSourceContract):
    @pytest.fixture
    def made(self, tmp_path: Path) -> SimpleNamespace:
        pixels = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
        images = [{"bytes": encoded(array), "path": None} for array in pixels]
        return SimpleNamespace(path=tmp_path / "i.parquet", images=images, labels=[row % 3 for row in range(40)])

    @pytest.fixture
    def section(self, made: SimpleNamespace) -> HuggingFaceImagesSection:
        write_images(made.path, made.images, made.labels)
        return HuggingFaceImagesSection(kind="huggingface-images", files=(str(made.path),), size=4, classes=3)

    @pytest.fixture
    def change(self, made: SimpleNamespace) -> Callable[[], None]:
        return lambda: write_images(made.path, made.images, [*made.labels[:-1], 1]) and None

    def test_training_examples_come_once_per_epoch_and_never_in_validation(self, section: Any) -> None:
        check_epochs(section)

    def test_it_is_what_parquet_images_reads(self, section: Any, made: SimpleNamespace) -> None:
        other = ParquetImagesSection(kind="parquet-images", path=str(made.path), size=4, classes=3)
        assert fresh(section).fingerprint == fresh(other).fingerprint

    def test_a_validation_part_of_its_own_is_the_validation_part(self, section: Any, made: SimpleNamespace) -> None:
        other = write_images(made.path.with_name("v.parquet"), made.images[:9], [2] * 9)
        data = fresh(section.model_copy(update={"validation_files": (str(other),)}))
        held_out = list(data.validation(batch_size=4, batches=99))
        assert [labels.tolist() for _, labels in held_out] == [[2] * 4, [2] * 4, [2]]
        one_epoch = data.batch(0, batch_size=40, seed=0)[1]
        assert np.bincount(one_epoch).tolist() == np.bincount(made.labels).tolist()


class TestShuffledHubCifar(DataSourceContract):
    """With the hub's own features: images and class labels."""

    @pytest.fixture
    def section(self) -> HuggingFaceImagesSection:
        path = real_data("cifar10", "test.parquet")
        return HuggingFaceImagesSection(kind="huggingface-images", files=(str(path),), limit=200)

    @pytest.fixture
    def change(self, section: HuggingFaceImagesSection) -> Callable[[], None]:
        return lambda: object.__setattr__(section, "limit", 199)


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_rows_of_bytes_are_their_texts_one_after_another(tmp_path: Path, ending: str) -> None:
    path = write_rows(tmp_path / f"rows{ending}", LINES)
    data = fresh(section(files=(str(path),), seq_len=300))
    for step in range(5):
        for row in data.batch(step, batch_size=2, seed=0)[0]:
            assert row.astype(np.uint8).tobytes().decode() in TEXT


def test_pairs_of_nested_and_plain_columns(tmp_path: Path) -> None:
    nested, plain = tmp_path / "nested.jsonl", tmp_path / "plain.jsonl"
    cells = [{"de": f"Satz {row}", "en": f"sentence {row}"} for row in range(2500)]
    write_rows(nested, cells, column="translation")
    plain.write_text("".join(json.dumps(cell) + "\n" for cell in cells))
    wanted = [(cell["de"], cell["en"]) for cell in cells]
    assert list(rows(Origin(files=(str(nested),)), ("translation.de", "translation.en"))) == wanted
    assert list(rows(Origin(files=(str(plain),)), ("de", "en"))) == wanted
    assert list(rows(Origin(files=(str(plain),)), ("de", "en"), limit=3)) == wanted[:3]
    assert list(rows(Origin(files=(str(plain),)), ("en",), skip=1500, limit=2000)) == [
        (e,) for _, e in wanted[1500:2000]
    ]


def test_multi30k_is_read_to_its_end() -> None:
    path = real_data("multi30k", "validation.jsonl")
    found = list(rows(Origin(files=(str(path),)), ("de", "en")))
    assert len(found) == 1014
    assert all(found[0])


def section(**fields: Any) -> HuggingFaceTextSection:
    return HuggingFaceTextSection(kind="huggingface-text", **{"seq_len": 8, **fields})


def refused(given: Any) -> str:
    with pytest.raises(DataError) as caught:
        fresh(given)
    return str(caught.value)


def test_a_hub_that_cannot_be_reached_is_told_with_what_would_do() -> None:
    message = refused(section(name="somebody/some-data", config="small"))
    assert message.startswith(
        "somebody/some-data small (train): the Hugging Face hub cannot be reached and the data is not on this machine "
        "(HF_HUB_OFFLINE is set: "
    )
    assert message.endswith(
        "try again with a connection, or give local copies (parquet, JSON lines, text) as data.files"
    )


def test_a_hub_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("Couldn't reach 'a/b' on the Hub (ConnectError)")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.setattr("mutransfer.data.rows.why_unreachable", lambda endpoint: None)
    message = refused(section(name="a/b"))
    assert "(tried https://mirror.example: Couldn't reach 'a/b' on the Hub (ConnectError))" in message


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("Unknown split \"trian\". Should be one of ['train']."), "Unknown split"),
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), "scripts are no longer supported"),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub"), "doesn't exist on the"),
    ],
)
def test_what_the_hub_does_not_have_is_told(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        assert "trust_remote_code" not in options
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    message = refused(section(name="a/b", split="trian"))
    assert message.startswith("a/b (trian): cannot be loaded from the Hugging Face hub: ")
    assert said in message


def test_a_name_on_the_hub_is_read_split_by_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the library's own data sets in place of downloaded ones."""
    asked = []

    def hub(name: str, config: str | None, *, revision: str | None, split: str, streaming: bool) -> Any:
        asked.append((name, config, revision, split))
        return datasets.Dataset.from_dict({"text": LINES if split == "train" else ["line unseen"] * 40})

    monkeypatch.setattr(datasets, "load_dataset", hub)
    given = section(name="a/b", config="c", revision="d", validation_split="validation", tokenizer=WORDS)
    data = fresh(given)
    ((inputs, _),) = data.validation(batch_size=99, batches=1)
    assert 0 in inputs
    assert set(asked) == {("a/b", "c", "d", "train"), ("a/b", "c", "d", "validation")}
    asked.clear()
    assert fresh(given).fingerprint == data.fingerprint
    assert len(asked) == 2, "once for each key; the rows come from the cache"


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["txt", "text.de"])
def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path, ending: str, column: str) -> None:
    path = write_rows(tmp_path / f"rows{ending}", LINES)
    names = "id, text"
    assert refused(section(files=(str(path),), column=column)) == (
        f"{path}: has no column {column!r}; its columns are {names}"
    )


def test_nested_columns_that_are_not_there_are_told_too(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"de": "x", "en": "y"}] * 9)
    assert refused(section(files=(str(path),), column="text.fr")) == (
        f"{path}: has no column 'text.fr'; its columns are id, text.de, text.en"
    )


def test_cells_that_are_no_text_are_told_by_their_row(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [*LINES[:7], None, *LINES])
    assert refused(section(files=(str(path),))) == f"{path}: row 7: column 'text' must be text, but got None"
    assert refused(section(files=(str(path),), column="id")).endswith("row 0: column 'id' must be text, but got 0")


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no parquet")
    assert refused(section(files=(str(broken),))).startswith(f"{broken}: cannot be ")
    lines = tmp_path / "broken.jsonl"
    lines.write_text('{"text": "a"}\n{"text": \n')
    assert refused(section(files=(str(lines),))).startswith(f"{lines}: cannot be ")
    assert refused(section(files=(str(tmp_path / "*.gone"),))) == f"data.files: {tmp_path}/*.gone: matches no file"
    assert refused(section(files=(str(tmp_path / "*.*"),))).startswith(
        "data.files: all files must be of one kind, but there are "
    )


def test_a_missing_extra_is_answered_with_the_pip_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refused(section(files=(str(write_rows(tmp_path / "r.jsonl", LINES)),)))
    assert message.startswith("data kind huggingface-text needs the extra 'hf' (datasets is missing): ")


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({}, "name"),
        ({"name": "a", "files": ["b"]}, "name"),
        ({"files": ["b"], "revision": "c"}, "revision"),
        ({"files": ["b"], "config": "c"}, "config"),
        ({"files": ["b"], "validation_split": "c"}, "validation_split"),
        ({"files": ["b"], "split": "c"}, "split"),
        ({"name": "a", "validation_files": ["c"]}, "validation_files"),
        ({"name": "a", "validation_split": "c", "validation_fraction": 0.2}, "validation_fraction"),
        ({"files": ["a"], "validation_files": ["c"], "validation_fraction": 0.2}, "validation_fraction"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: dict[str, Any], at: str) -> None:
    with pytest.raises(ValidationError) as caught:
        section(**fields)
    cause = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(cause, FieldProblem)
    assert cause.path == (at,)
