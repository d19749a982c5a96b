"""Config texts whose line numbers the tests know, and fixtures that load them or see them refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mutransfer.config.load import load_config
from mutransfer.config.schema import RunConfig
from mutransfer.errors import ConfigError

GPT = """\
name: tiny
model: {kind: gpt, width: 16, base_width: 16, depth: 1, head_dim: 8}
data: {kind: text, paths: [a.txt], seq_len: 16}
training: {steps: 12}
hparams: {lr: 0.01}
search:
  trials: 4
  space:
    lr: {log_uniform: [1e-3, 1e-1]}
"""
MLP = """\
name: tiny
model: {kind: mlp, width: 16, base_width: 16}
data: {kind: digits}
hparams: {optimizer: sgd}
search:
  space:
    lr: {log_uniform: [1e-3, 1]}
"""
FILE = "config.yaml"
Load = Callable[..., RunConfig]
Refuse = Callable[..., str]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Write text to config.yaml in the current folder and load it."""
    monkeypatch.chdir(tmp_path)

    def loader(text: str, *overrides: str) -> RunConfig:
        Path(FILE).write_text(text, encoding="utf-8")
        return load_config(FILE, overrides)

    return loader


@pytest.fixture
def refuse(load: Load) -> Refuse:
    """Load text that has to be refused, and return the message."""

    def refuser(text: str, *overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides)
        assert caught.value.exit_code == 2
        return str(caught.value)

    return refuser


def edited(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} must stand in the text once"
    return text.replace(old, new)
