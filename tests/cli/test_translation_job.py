"""The translation job on the command line: sweep, transfer, train, with BLEU at the end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import invoke

pytest.importorskip("sacrebleu")


def test_a_swept_proxy_becomes_a_target_that_ends_with_bleu(
    pairs: dict[str, Any], write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs["training"] |= {"steps": 8}
    pairs["search"] |= {"trials": 2}
    path = write({**pairs, "data": {**pairs["data"], "seq_len": 4}})
    code, stdout, stderr = invoke("sweep", str(path), "--workers", "1", "--no-check", "--json")
    assert code == 0
    assert stderr.count("training pairs are longer and are truncated") == 1
    assert json.loads(stdout)["outcomes"] == {"completed": 2}
    code, stdout, stderr = invoke("transfer", "--width", "32", "--seq-len", "12")
    assert code == 0
    assert "data.seq_len: 4 → 12" in stdout
    (config,) = tmp_path.glob("runs/*/targets/*/config.yaml")
    code, stdout, stderr = invoke("train", str(config))
    assert code == 0
    assert re.search(r"bleu \d+\.\d\d on", stdout)
    assert "on the validation data" in stdout
    assert "truncated" not in stderr
    result = json.loads((config.parent / "result.json").read_text())
    code, stdout, _ = invoke("transfer", "--width", "32", "--seq-len", "12", "--launch")
    assert code == 0
    assert re.search(r": bleu \d+\.\d\d, validation loss", stdout)
    code, stdout, _ = invoke("train", str(config), "--resume", "--json")
    assert code == 0
    assert json.loads(stdout)["metrics"] == result["metrics"] == {"bleu": pytest.approx(result["metrics"]["bleu"])}


def test_init_writes_a_config_for_every_kind(tmp_path: Path) -> None:
    for kind in ("bert", "gpt", "mlp", "resnet", "seq2seq"):
        code, _, _ = invoke("init", str(tmp_path / f"{kind}.yaml"), "--model", kind)
        assert code == 0
        assert f"kind: {kind}" in (tmp_path / f"{kind}.yaml").read_text()
