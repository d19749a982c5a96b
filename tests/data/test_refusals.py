"""Data that cannot be used is refused with what is wrong, where, and what would be right."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mutransfer.config.data import BaseDataSection, DigitsSection, ParquetImagesSection, TextSection, TokensSection
from mutransfer.errors import DataError
from mutransfer.testing.data_sources import fresh
from tests.data.test_sources import encoded, write_images


def refused(section: BaseDataSection) -> str:
    with pytest.raises(DataError) as caught:
        fresh(section)
    assert caught.value.exit_code == 2
    return str(caught.value)


def text(*paths: Path | str, **fields: Any) -> TextSection:
    return TextSection(kind="text", paths=tuple(map(str, paths)), **{"seq_len": 8, **fields})


def tokens(path: Path, **fields: Any) -> TokensSection:
    return TokensSection(kind="tokens", path=str(path), **{"vocab_size": 1000, "seq_len": 8, **fields})


@pytest.mark.parametrize(
    ("length", "part", "has"), [(0, "training", 0), (70, "validation", 7), (80, "validation", 8), (7, "training", 6)]
)
def test_text_shorter_than_a_sequence(tmp_path: Path, length: int, part: str, has: int) -> None:
    path = tmp_path / "short.txt"
    path.write_bytes(b"x" * length)
    assert refused(text(path)) == (
        f"{path}: too short: the {part} part has {has} tokens, but one sequence needs seq_len + 1 = 9"
    )


def test_the_shortest_text_that_is_long_enough_gives_batches(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_bytes(bytes(range(90)))
    data = fresh(text(path))
    assert data.batch(0, batch_size=2, seed=0)[0].shape == (2, 8)
    ((inputs, targets),) = data.validation(batch_size=4, batches=4)
    assert (inputs.tolist(), targets.tolist()) == ([[*range(81, 89)]], [[*range(82, 90)]])


def test_a_pattern_that_matches_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("x" * 200)
    missing = tmp_path / "**" / "*.md"
    assert refused(text(tmp_path / "there.txt", missing)) == f"data.paths: {missing}: matches no file"


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    assert refused(text(tmp_path)) == f"{tmp_path}: is a folder"


@pytest.mark.parametrize(("dtype", "size", "length"), [("uint16", 2, 401), ("uint32", 4, 402), ("uint16", 2, 0)])
def test_a_token_file_that_is_no_whole_number_of_ids(tmp_path: Path, dtype: str, size: int, length: int) -> None:
    path = tmp_path / "odd.bin"
    path.write_bytes(bytes(length))
    assert refused(tokens(path, dtype=dtype)) == (
        f"{path}: {length} bytes are not a whole number of {dtype} token ids of {size} bytes"
    )


def test_a_token_file_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    assert refused(tokens(tmp_path / "gone.bin")) == f"{tmp_path / 'gone.bin'}: no such file"
    assert refused(tokens(tmp_path)) == f"{tmp_path}: is not a folder of shards; `mutransfer prepare` makes one"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_token_file_without_read_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.bin"
    path.write_bytes(bytes(400))
    path.chmod(0)
    assert refused(tokens(path)) == f"{path}: cannot be read: Permission denied"


@pytest.mark.parametrize("position", [5, 185])  # in the training part, in the validation part
@pytest.mark.parametrize("read_whole", [1 << 27, 100])  # a small file at once, a larger one batch by batch
def test_a_token_id_beyond_the_vocabulary_is_found_in_either_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: int, read_whole: int
) -> None:
    monkeypatch.setattr("mutransfer.data.dataset._READ_WHOLE", read_whole)
    monkeypatch.setattr("mutransfer.data.dataset._SAMPLED", 10)
    path = tmp_path / "ids.bin"
    ids = np.zeros(200, dtype="<u2")
    ids[position] = 1000
    ids.tofile(path)

    def read_everything() -> None:
        data = fresh(tokens(path))
        data.batch(0, batch_size=64, seed=0)
        list(data.validation(batch_size=4, batches=4))

    with pytest.raises(DataError, match=r"ids\.bin: has token id 1000, but vocab_size is 1000$"):
        read_everything()


def test_the_same_files_named_otherwise_or_moved_are_the_same_data(tmp_path: Path, monkeypatch: Any) -> None:
    """Else a study could not be continued from another working folder."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("one.txt", "two.txt", "b/three.txt"):
        (tmp_path / "a" / name).write_text(name * 50)
    monkeypatch.chdir(tmp_path)
    relative = fresh(TextSection(kind="text", paths=("a/**/*.txt",), seq_len=8)).fingerprint
    absolute = fresh(TextSection(kind="text", paths=(f"{tmp_path}/a/**/*.txt",), seq_len=8)).fingerprint
    (tmp_path / "a").rename(tmp_path / "c")
    moved = fresh(TextSection(kind="text", paths=("c/*.txt", "c/b/three.txt"), seq_len=8)).fingerprint
    assert relative == absolute == moved


def pictures(count: int = 20, size: int = 4) -> list[bytes]:
    return [encoded(np.full((size, size, 3), row, np.uint8)) for row in range(count)]


def parquet(path: Path, **fields: Any) -> ParquetImagesSection:
    return ParquetImagesSection(kind="parquet-images", path=str(path), **{"size": 4, "classes": 3, **fields})


LABELS = [row % 3 for row in range(20)]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"image_column": "image"}, "has no column 'image'; its columns are img, label"),
        ({"label_column": "class"}, "has no column 'class'; its columns are img, label"),
        ({"size": 5}, "row 0: image is 4×4, but data.size is 5; all images must have that size"),
        ({"classes": 2}, "labels run from 0 to 2, but classes is 2"),
        ({"limit": 1}, "too small to split: 1 examples"),
    ],
)
def test_a_parquet_file_that_is_not_what_the_section_says(tmp_path: Path, fields: dict[str, Any], problem: str) -> None:
    path = write_images(tmp_path / "images.parquet", pictures(), LABELS)
    assert refused(parquet(path, **fields)) == f"{path}: {problem}"


def broken_chunk() -> bytes:
    """A PNG with one byte of its length of pixels changed, on which Pillow raises a SyntaxError."""
    png = bytearray(encoded(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)))
    png[png.index(b"IDAT") - 1] -= 16
    return bytes(png)


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (b"no picture", "row 3: cannot be decoded as an image"),
        (pictures(1)[0][:45], "row 3: cannot be decoded as an image"),
        (broken_chunk(), "row 3: cannot be decoded as an image"),
        (None, "row 3: column 'img' must hold an encoded image"),
        (pictures(1, size=5)[0], "row 3: image is 5×5, but data.size is 4; all images must have that size"),
    ],
    ids=["garbage", "truncated", "broken-chunk", "null", "other-size"],
)
def test_one_bad_image_is_told_by_its_row(tmp_path: Path, cell: bytes | None, problem: str) -> None:
    images = [*pictures(3), cell, *pictures(16)]
    path = write_images(tmp_path / "images.parquet", images, LABELS)
    message = refused(parquet(path))
    assert message.startswith(f"{path}: {problem}")
    assert " at 0x" not in message, "an address in memory helps nobody"


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([-1, *LABELS[1:]], "labels run from -1 to 2, but classes is 3"),
        ([*LABELS[:-1], 3], "labels run from 0 to 3, but classes is 3"),
        (["cat"] * 20, "row 0: label must be a whole number, but got 'cat'"),
        ([0.5] * 20, "row 0: label must be a whole number, but got 0.5"),
        ([*LABELS[:7], None, *LABELS[8:]], "row 7: label must be a whole number, but got None"),
    ],
)
def test_bad_labels_are_told(tmp_path: Path, labels: list[Any], problem: str) -> None:
    path = write_images(tmp_path / "images.parquet", pictures(), labels)
    assert refused(parquet(path)) == f"{path}: {problem}"


@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty", "inside"])
def test_a_damaged_parquet_file(tmp_path: Path, damage: str) -> None:
    path = write_images(tmp_path / "images.parquet", pictures(), LABELS)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "garbage": b"garbage" * 50,
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "inside": whole[:40] + bytes(40) + whole[80:],
        }[damage]
    )
    assert refused(parquet(path)).startswith(f"{path}: cannot be read as parquet: ")


def test_a_parquet_file_that_is_missing_or_has_no_rows(tmp_path: Path) -> None:
    assert refused(parquet(tmp_path / "gone.parquet")) == f"{tmp_path / 'gone.parquet'}: no such file"
    arrow = pytest.importorskip("pyarrow")
    path = write_images(tmp_path / "none.parquet", arrow.array([], arrow.binary()), arrow.array([], arrow.int64()))
    assert refused(parquet(path)) == f"{path}: has no rows"


@pytest.mark.parametrize(
    ("module", "section"),
    [
        ("sklearn.datasets", DigitsSection(kind="digits")),
        ("pyarrow.parquet", parquet(Path("x.parquet"))),
        ("PIL.Image", parquet(Path("x.parquet"))),
    ],
)
def test_a_missing_extra_is_answered_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, module: str, section: BaseDataSection
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = refused(section)
    assert message.startswith(f"data kind {section.kind} needs the extra 'vision' ({module} is missing): ")  # type: ignore[attr-defined]
    assert message.endswith("pip install 'mutransfer[vision]'")


def test_loading_data_of_every_kind_imports_no_torch(tmp_path: Path, corpus: Path) -> None:
    np.arange(200, dtype="<u2").tofile(tmp_path / "ids.bin")
    sections = [text(corpus), tokens(tmp_path / "ids.bin")]
    sections += [DigitsSection(kind="digits"), parquet(write_images(tmp_path / "p.parquet", pictures(), LABELS))]
    program = (
        "import sys\nfrom mutransfer.config.data import *\nfrom mutransfer.data import load_data\n"
        f"for section in [{', '.join(map(repr, sections))}]:\n    load_data(section).batch(0, batch_size=2, seed=0)\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
