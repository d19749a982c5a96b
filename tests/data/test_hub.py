"""A name on the hub from download to shards, and without the hub afterwards, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.data.hub import NAME, hub

pytest.importorskip("datasets")
PROGRAM = """
import sys
from mutransfer.config.data import HuggingFaceTextSection
from mutransfer.data import load_data
from mutransfer.data.rows import Origin, rows
from mutransfer.errors import DataError
name = sys.argv[1]
section = HuggingFaceTextSection(kind="huggingface-text", name=name, column="translation.de", seq_len=8,
                                 validation_split="validation")
try:
    print(load_data(section).fingerprint)
    print(next(rows(Origin(name=name, split="validation"), ("translation.de", "translation.en"))))
except DataError as error:
    print("refused:", error)
"""


@pytest.fixture
def served(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    for split, count in (("train", 300), ("validation", 50)):
        rows = [{"translation": {"de": f"{split} Satz {row}", "en": f"sentence {row}"}} for row in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def python(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HTTP", "http", "ALL_"))}
    environment = {**plain, "HF_HOME": str(home / "hf"), "PYTHONPATH": str(REPOSITORY), "NO_PROXY": "*", **variables}
    return subprocess.run(
        [sys.executable, *arguments], check=False, capture_output=True, text=True, env=environment, timeout=120
    )


def test_a_name_on_the_hub_is_downloaded_once_and_used_without_the_hub(served: Path, tmp_path: Path) -> None:
    with hub(served) as address:
        first = python(tmp_path, "-c", PROGRAM, NAME, HF_ENDPOINT=address).stdout.splitlines()
        assert len(first) == 2, first
        assert first[1] == "('validation Satz 0', 'sentence 0')"
        other = python(tmp_path, "-c", PROGRAM, "somebody/unknown", HF_ENDPOINT=address).stdout
        assert other.startswith("refused: somebody/unknown (train): cannot be loaded from the Hugging Face hub: ")
    offline = python(tmp_path, "-c", PROGRAM, NAME, HF_ENDPOINT=address, HF_HUB_OFFLINE="1").stdout.splitlines()
    assert offline == first
    absent = python(tmp_path / "new", "-c", PROGRAM, NAME, HF_ENDPOINT=address, HF_HUB_OFFLINE="1").stdout
    assert absent.startswith(f"refused: {NAME} (train): the Hugging Face hub cannot be reached and the data is not on ")


def test_a_hub_that_cannot_be_reached_is_said_at_once_and_the_cache_used(served: Path, tmp_path: Path) -> None:
    """The library's own client would try again for some 25 s."""
    with hub(served) as address:
        first = python(tmp_path, "-c", PROGRAM, NAME, HF_ENDPOINT=address).stdout.splitlines()
    waits = f"import time\nwaited = []\ntime.sleep = waited.append\n{PROGRAM}\nprint(sum(waited))"
    *cached, waited = python(tmp_path, "-c", waits, NAME, HF_ENDPOINT=address).stdout.splitlines()
    assert (cached, float(waited)) == (first, 0)
    refused, waited = python(tmp_path / "new", "-c", waits, NAME, HF_ENDPOINT=address).stdout.splitlines()
    assert float(waited) == 0
    assert refused.startswith(
        f"refused: {NAME} (train): the Hugging Face hub cannot be reached and the data is not on "
    )
    assert f"(tried {address}: [Errno 111] Connection refused)" in refused


def test_a_name_on_the_hub_is_streamed_into_shards(served: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        "name: x\nmodel: {kind: gpt, width: 16, base_width: 16, head_dim: 8}\n"
        f"data: {{kind: huggingface-text, name: {NAME}, column: translation.de, validation_split: validation}}\n",
        encoding="utf-8",
    )
    with hub(served) as address:
        done = python(
            tmp_path, "-m", "mutransfer", "prepare", str(config), "--out", str(tmp_path / "out"), "--json",
            HF_ENDPOINT=address,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    index = json.loads(done.stdout)
    text = "".join(f"train Satz {row}\n" for row in range(300))
    held_out = "".join(f"validation Satz {row}\n" for row in range(50))
    assert index["tokens"] == len(text + held_out)
    assert index["held_out"] == len(held_out)
