"""The surface that scripts rely on: verbs, options, exit codes, public names, and what is imported when."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from typing import Any

import pytest
import typer.main

import mutransfer
import mutransfer.cli
from mutransfer import errors
from tests.cli.conftest import invoke

# Options and arguments of each verb. Scripts use them: change this only together with the changelog.
SURFACE = {
    "init": {"path", "--model", "--json"},
    "prepare": {
        "CONFIG", "--out", "--set", "--input", "--column", "--tokenizer", "--vocab-size", "--eos", "--sample",
        "--shard-tokens", "--workers", "--json",
    },
    "sweep": {"CONFIG", "--set", "--executor", "--workers", "--pack", "--no-check", "--runs", "--json"},
    "transfer": {
        "--width", "--depth", "--batch-size", "--seq-len", "--steps", "--force",
        "--run", "--trial", "--launch", "--runs", "--json",
    },
    "train": {"CONFIG", "--set", "--resume", "--out", "--runs", "--json"},
    "audit": {"CONFIG", "--width", "--set", "--json"},
    "coord-check": {
        "CONFIG", "--set", "--sizes", "--axis", "--steps", "--seeds", "--lr", "--threshold", "--control",
        "--no-control", "--finite", "--out", "--runs", "--json",
    },
    "reverse": {"CONFIG", "--width", "--set", "--out", "--json"},
    "export": {"CONFIG_OR_TARGET", "--format", "--out", "--force", "--set", "--runs", "--json"},
    "status": {"[RUN]", "--runs", "--json"},
    "transfer-check": {
        "CONFIG", "--axis", "--sizes", "--hparam", "--values", "--grid", "--seeds", "--tolerance", "--control",
        "--no-control", "--executor", "--workers", "--threads", "--runs", "--out", "--set", "--json",
    },
}  # fmt: skip
EXIT_CODES = {
    "MutransferError": 1,
    "UsageError": 2,
    "ConfigError": 2,
    "DataError": 2,
    "PlanError": 2,
    "NothingUsable": 3,
    "Interrupted": 4,
    "LaunchFailed": 5,
}
PUBLIC = {
    "ModelFacts", "Plan", "RunConfig", "__version__", "attention_scale", "initialize", "load_config", "make_target",
    "parameter_groups", "plan_for", "run_sweep", "set_multipliers", "train",
}  # fmt: skip


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    return subprocess.run([sys.executable, *arguments], check=False, capture_output=True, text=True, env=plain)


def verbs() -> dict[str, Any]:
    command: Any = typer.main.get_command(mutransfer.cli.app)
    return dict(command.commands)


def names(command: Any) -> set[str]:
    """Options by their long names, arguments by their metavars."""
    found = set()
    for parameter in command.params:
        options = [option for option in (*parameter.opts, *parameter.secondary_opts) if option.startswith("-")]
        found |= set(options) or {parameter.metavar or parameter.name}
    return found - {"--help"}


def test_the_verbs_and_their_options_are_the_pinned_ones() -> None:
    assert {verb: names(command) for verb, command in verbs().items()} == SURFACE


@pytest.mark.parametrize("verb", SURFACE)
def test_a_verb_explains_itself_and_each_of_its_options(verb: str) -> None:
    code, stdout, stderr = invoke(verb, "--help")
    assert (code, stderr) == (0, "")
    assert f"Usage: mutransfer {verb}" in stdout
    for option in SURFACE[verb] - {"CONFIG", "CONFIG_OR_TARGET", "path", "[RUN]"}:
        assert option in stdout
    command = verbs()[verb]
    assert command.help
    assert command.help.rstrip().endswith(".")
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{verb} {parameter.name} has no help"


def test_help_lists_every_verb_and_version_prints_the_version() -> None:
    code, stdout, _ = invoke("--help")
    assert code == 0
    assert set(re.findall(r"(?m)^│ (\w[\w-]*) ", stdout)) == set(SURFACE)
    assert invoke("--version") == (0, f"mutransfer {mutransfer.__version__}\n", "")


def test_runs_can_come_from_the_environment(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUTRANSFER_RUNS", str(tmp_path / "elsewhere"))
    code, stdout, _ = invoke("status")
    assert code == 0
    assert str(tmp_path / "elsewhere") in stdout


def test_every_error_has_its_documented_exit_code() -> None:
    found = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.MutransferError)
    }
    assert found == EXIT_CODES


def test_the_public_names_are_the_pinned_ones_and_all_resolve() -> None:
    assert set(mutransfer.__all__) == PUBLIC == set(dir(mutransfer))
    for name in PUBLIC:
        assert getattr(mutransfer, name) is not None
    with pytest.raises(AttributeError, match="module 'mutransfer' has no attribute 'tune'"):
        mutransfer.tune  # noqa: B018


def test_help_answers_without_torch_optuna_or_pandas() -> None:
    done = python("-X", "importtime", "-m", "mutransfer", "--help")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"mutransfer", "typer"} <= imported
    assert not imported & {"torch", "optuna", "pandas"}


def modules(package: str) -> list[str]:
    found = importlib.import_module(package)
    return [package, *(f"{package}.{module.name}" for module in pkgutil.iter_modules(found.__path__))]


@pytest.mark.parametrize(
    "imported",
    [
        ["mutransfer"],
        modules("mutransfer.config"),
        modules("mutransfer.data"),
        modules("mutransfer.cli"),
        ["mutransfer.parametrization.rules", "mutransfer.parametrization.plan"],
        ["mutransfer.sweep.space", "mutransfer.executors.devices", "mutransfer.errors", "mutransfer.files"],
    ],
    ids=lambda imported: imported[0],
)
def test_these_modules_import_no_torch(imported: list[str]) -> None:
    program = f"import sys, {', '.join(imported)}\nsys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    done = python("-c", program)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_dash_m_is_the_same_command_line_with_its_exit_codes() -> None:
    done = python("-m", "mutransfer", "sweep", "gone.yaml")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: gone.yaml: no such file\n")
