"""The command line in this process, and a workspace with a finished sweep, a started target run and their config."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mutransfer.cli import app
from mutransfer.config.load import load_config
from mutransfer.data import load_data
from mutransfer.executors.devices import Device
from mutransfer.executors.inline import InlineExecutor
from mutransfer.sweep.coordinator import run_sweep
from mutransfer.training.folder import TrainFolder
from mutransfer.training.run import train
from tests.conftest import TEXT

GPT = """\
name: tiny
model: {kind: gpt, width: 16, base_width: 16, depth: 1, head_dim: 8}
data: {kind: text, paths: [corpus.txt], seq_len: 16}
training: {steps: 6, batch_size: 2, eval_batches: 1}
search:
  trials: 3
  confirm: {top: 0}
  space:
    lr: {log_uniform: [1e-3, 1e-1]}
"""
MLP = """\
name: digits
model: {kind: mlp, width: 16, base_width: 16}
data: {kind: digits}
training: {steps: 4, batch_size: 4, eval_batches: 1}
search: {trials: 1, confirm: {top: 0}, space: {lr: {log_uniform: [1e-3, 1e-1]}}}
"""
_RUNNER = CliRunner(env={"COLUMNS": "120"})
Refused = Callable[..., str]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`gpt.yaml`, `mlp.yaml`, and `runs` with the sweeps of both and an interrupted run of the first."""
    home = tmp_path_factory.mktemp("workspace")
    with contextlib.chdir(home):
        Path("corpus.txt").write_text(TEXT, encoding="utf-8")
        for name, text in (("gpt", GPT), ("mlp", MLP)):
            Path(f"{name}.yaml").write_text(text, encoding="utf-8")
            config = load_config(f"{name}.yaml")
            run_sweep(config, runs=Path("runs"), pack=1, executor=lambda: InlineExecutor(Device("cpu", "cpu", 1)))
        folder = TrainFolder(Path("runs/tiny/train"))
        assert train(load_config("gpt.yaml"), folder, should_stop=lambda: True).outcome == "interrupted"
    return home


@pytest.fixture
def workspace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, as the current folder."""
    home = tmp_path / "workspace"
    shutil.copytree(made, home)
    monkeypatch.chdir(home)
    monkeypatch.delenv("MUTRANSFER_RUNS", raising=False)
    load_data.cache_clear()  # corpus.txt is the same name with other content in every workspace
    yield home
    load_data.cache_clear()


def files(home: Path) -> dict[str, bytes]:
    """Every folder, and every file but locks with its content."""
    found = {path.relative_to(home).as_posix(): path for path in home.rglob("*") if path.name != "__pycache__"}
    return {
        name: path.read_bytes() if path.is_file() else b"folder"
        for name, path in found.items()
        if not path.name.startswith(".lock") and "__pycache__" not in path.parts
    }


def invoke(*arguments: str) -> tuple[int, str, str]:
    """Run the command line; exit code, stdout, stderr."""
    result = _RUNNER.invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # a user would see a traceback
    assert "Traceback" not in result.output
    stdout, stderr = (re.sub(r"\x1b\[[0-9;]*m", "", text) for text in (result.stdout, result.stderr))  # FORCE_COLOR
    return result.exit_code, stdout, stderr


@pytest.fixture
def refused(workspace: Path) -> Refused:
    """Run a command that has to be refused, without and with --json; check everything but what it says."""

    def refuser(*arguments: str, code: int = 2) -> str:
        before = files(workspace)
        exit_code, stdout, stderr = invoke(*arguments)
        assert (exit_code, stdout) == (code, "")
        assert stderr.startswith("error: ")
        message = stderr.removeprefix("error: ").removesuffix("\n")
        load_data.cache_clear()
        exit_code, stdout, stderr = invoke(*arguments, "--json")
        answer = json.loads(stdout)
        assert answer["error"]["message"] == message
        assert (exit_code, answer["exit_code"]) == (code, code)
        assert stderr == f"error: {message}\n"
        assert files(workspace) == before
        return message

    return refuser
