"""One command line as a whole: every way in which it can end is an exit code and a message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mutransfer.cli import call
from tests.cli.conftest import MLP
from tests.conftest import REPOSITORY

Called = Callable[..., tuple[int, str, str]]
S = "S3CRET"


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Called:
    monkeypatch.chdir(tmp_path)
    Path("mlp.yaml").write_text(MLP)

    def caller(*arguments: str) -> tuple[int, str, str]:
        code = call(arguments)
        found = capsys.readouterr()
        assert "Traceback" not in found.err
        assert S not in found.out + found.err
        return code, found.out, found.err

    return caller


@pytest.mark.parametrize(
    "arguments",
    [
        ("audit", f"postgresql://me:{S}@h/d"),
        ("audit", "mlp.yaml", "--width", f"postgresql://me@srv:{S}@h/d"),
        ("audit", "mlp.yaml", f"--postgresql://me@srv:{S}@h/d"),
        (f"postgresql://me:{S}@h/d",),
        ("audit", "mlp.yaml", f"postgresql://me@srv:{S}@h/d"),
        ("status", f"https://h/x?token={S}"),
        ("status", "--runs", f"redis://:{S}@h"),
        ("transfer", "--width", "8", "--run", f"postgresql://me@srv:{S}@h/d"),
        ("transfer-check", "mlp.yaml", "--values", f"postgresql://me:{S}@h/d"),
        ("export", "mlp.yaml", "--format", f"postgresql://me:{S}@h/d"),
        ("init", f"postgresql://me:{S}@h/d/x.yaml"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_secret_in_any_argument_is_never_printed(
    called: Called, arguments: tuple[str, ...], more: tuple[str]
) -> None:
    code, _, _ = called(*arguments, *more)
    assert code == 2 or arguments[:2] == ("status", "--runs")


def test_arguments_that_cannot_be_parsed_get_usage_and_json(called: Called) -> None:
    code, out, err = called("sweep", "mlp.yaml", "--workers", "x\x1b[31m", "--json")
    assert code == 2
    assert json.loads(out)["exit_code"] == 2
    assert "Usage: mutransfer sweep" in err
    assert "--workers" in err
    assert "\x1b" not in err


def test_an_argument_that_is_not_utf8_is_refused(called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (("audit", "\udcff.yaml"), ("status", "--runs", "r\udcff"), ("init", "a\udc80")):
        shown = ascii(arguments[-1])[1:-1]
        assert called(*arguments)[::2] == (2, f"error: {shown}: is not UTF-8 text; rename the file or the folder\n")
    monkeypatch.setenv("MUTRANSFER_RUNS", "\udcff")
    assert called("status")[0] == 2


def test_a_current_folder_that_is_gone_is_named(called: Called) -> None:
    gone = Path("gone")
    gone.mkdir()
    os.chdir(gone)
    Path("../gone").rmdir()
    assert called("status")[::2] == (2, "error: the current folder is gone; change into another one\n")


def test_an_error_of_the_system_is_a_message(called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mutransfer.config.load.load_config", lambda *_: (_ for _ in ()).throw(OSError(27, "File too large"))
    )
    assert called("audit", "mlp.yaml")[::2] == (2, "error: a file cannot be read or written: File too large\n")


def test_a_fault_of_ours_is_exit_code_1_and_keeps_secrets(called: Called, monkeypatch, capsys) -> None:
    def fault(*_):
        raise ZeroDivisionError(f"postgresql://me:{S}@h/d")

    monkeypatch.setattr("mutransfer.config.load.load_config", fault)
    assert call(["audit", "mlp.yaml"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError: postgresql://me:***@h/d" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["--help"]])
def test_a_full_disk_behind_stdout_is_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mutransfer", *arguments], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE,
            text=True, check=False, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
