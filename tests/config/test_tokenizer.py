"""The `tokenizer:` field in a config: short and long, told by its line when it is wrong, the same when saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mutransfer.config.load import load_config, save_config
from mutransfer.config.schema import RunConfig
from mutransfer.errors import ConfigError

TEXT = """\
name: words
model: {kind: gpt, width: 16, base_width: 16, depth: 1, head_dim: 8}
data:
  kind: text
  paths: [corpus.txt]
  tokenizer:
    kind: words
    vocab_size: 100
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_what_the_model_sees_follows_from_the_tokenizer(path: Path) -> None:
    assert load_config(path).data.spec.vocab_size == 100  # type: ignore[union-attr]
    assert load_config(path, ["data.tokenizer=bytes"]).data.spec.vocab_size == 256  # type: ignore[union-attr]
    bpe = load_config(path, ["data.tokenizer.kind=bpe", "data.tokenizer.vocab_size=512"])
    assert bpe.data.spec.vocab_size == 512  # type: ignore[union-attr]


def test_a_config_is_the_same_after_it_was_saved(path: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 41}}, "added_tokens": []}))
    for override in (["data.tokenizer=bytes"], [], [f"data.tokenizer={{file: {tokenizer}}}"]):
        config = load_config(path, override)
        save_config(config, tmp_path / "saved.yaml")
        assert load_config(tmp_path / "saved.yaml") == config
    assert config.data.spec.vocab_size == 42  # type: ignore[union-attr]
    tokenizer.unlink()
    assert load_config(tmp_path / "saved.yaml") == config, "the size of the vocabulary is stated by then"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    vocab_size: 100\n", "", "run.yaml:6: data.tokenizer.vocab_size: tokenizer kind words needs it"),
        ("vocab_size: 100", "vocab_size: 3", "run.yaml:8: data.tokenizer.vocab_size: must be at least 8, but got 3"),
        ("vocab_size: 100", "vocab_sise: 100", "run.yaml:8: data.tokenizer.vocab_sise: unknown key; did you mean"),
        ("kind: words", "kind: wrods", "run.yaml:7: data.tokenizer.kind: must be "),
    ],
)
def test_a_tokenizer_that_cannot_be_is_told_with_its_line(path: Path, old: str, new: str, message: str) -> None:
    path.write_text(TEXT.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path.parent / message))


def test_the_published_schema_has_the_short_form() -> None:
    schema = RunConfig.model_json_schema()
    field = schema["$defs"]["TextSection"]["properties"]["tokenizer"]
    assert {"$ref": "#/$defs/TokenizerSection"} in field["anyOf"]
    assert any(variant.get("const") == "bytes" for variant in field["anyOf"])
