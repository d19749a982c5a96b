"""Packages outside this repository, found by their entry points and held to the contracts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FIXTURES = Path(__file__).parent / "fixtures"
CONFIG = """
name: toy
model: {kind: toy-pair, width: 16, base_width: 16}
data: {kind: toy-waves}
training: {steps: 20, batch_size: 16, eval_batches: 2}
executor: {kind: toy-threads}
search: {trials: 4, confirm: {top: 0}, space: {lr: {log_uniform: [1e-3, 1e-1]}}}
"""


def python(*arguments: str, packages: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    paths = [*(str(FIXTURES / one) for one in packages), str(REPOSITORY)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False,
        timeout=240,
    )  # fmt: skip


def cli(*arguments: str, packages: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    return python("-m", "mutransfer", *arguments, packages=packages, folder=folder)


def test_plug_ins_pass_the_suites_in_their_own_package(tmp_path):
    done = python(
        "-m", "pytest", "-v", "-p", "no:cacheprovider", str(FIXTURES / "toy_plugin" / "suite.py"),
        packages=("toy_plugin",), folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\d\d passed", done.stdout), done.stdout[-500:]


@pytest.mark.parametrize(
    "options", [(), ("--executor", "inline", "--set", "search.hang_after=0"), ("--executor", "toy-threads")]
)
def test_a_sweep_of_a_plugged_in_model_on_a_plugged_in_executor(options, tmp_path):
    (tmp_path / "toy.yaml").write_text(CONFIG, encoding="utf-8")
    done = cli("sweep", "toy.yaml", "--pack", "1", "--no-check", "--json", *options,
               packages=("toy_plugin", "broken_plugin"), folder=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcomes"] == {"completed": 4}
    saved = (tmp_path / "runs" / "toy" / "config.yaml").read_text(encoding="utf-8")
    assert "executor" not in saved  # another machine reads it without the executor's package
    again = cli("sweep", "toy.yaml", "--pack", "1", "--no-check", "--executor", "local", "--workers", "1", "--json",
                packages=("toy_plugin",), folder=tmp_path)  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(done.stdout)  # continued on another executor: nothing is left to do


def test_a_plugged_in_export_writes(tmp_path):
    (tmp_path / "toy.yaml").write_text(CONFIG, encoding="utf-8")
    done = cli("export", "toy.yaml", "--format", "toy-lines", packages=("toy_plugin",), folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "width 16\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "model.kind=broken"), "model.kind: model kind broken: the entry point no_such_module:Section of "
                                         "package broken-plugin cannot be used: No module named 'no_such_module'"),
        (("--executor", "broken"), "executor broken: the entry point no_such_module:Section of package broken-plugin"),
        (("--executor", "nokind"), 'of package broken-plugin cannot be used: its field kind must be Literal["nokind"]'),
        (("--set", "model.kind=function"), "it must be a subclass of mutransfer.config.models.base.BaseModelSection"),
        (("--executor", "hollow"), "executor hollow: the entry point broken_sections:HollowExecutor of package "
                                   "broken-plugin cannot be used"),
        (("--set", "hparams.optimizer=function"), "it must be an instance of mutransfer.optimizers.base.Optimizer"),
        (("--executor", "inlien"), "'inlien' is not one of local, inline, hollow; did you mean inline?"),
        (("--executor", "inline", "--set", "search={trials: 2, space: {lr: {uniform: [1, 2]}}}", "--workers", "2"),
         "--workers 2: executor inline runs one job at a time"),
        (("--executor", "inline", "--set", "search.hang_after=60"), "executor inline: this sweep needs a way to end"),
    ],
)  # fmt: skip
def test_a_broken_or_unfit_plug_in_is_one_message(arguments, message, tmp_path):
    (tmp_path / "mlp.yaml").write_text((REPOSITORY / "configs" / "mlp-digits.yaml").read_text(encoding="utf-8"))
    done = cli("sweep", "mlp.yaml", "--no-check", *arguments, packages=("broken_plugin",), folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.replace("\n", " ").replace("  ", " ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("train", ("--set", "model={kind: hollow, width: 16, base_width: 16}"),
         "model kind hollow: the entry point broken_sections:HollowModel of package broken-plugin cannot be used"),
        ("train", ("--set", "data={kind: hollow}"), "data kind hollow: the entry point broken_sections:HollowData of "
                                                    "package broken-plugin cannot be used: No module named"),
        ("export", ("--format", "number"), "of package broken-plugin cannot be used: it must be a function"),
    ],
)  # fmt: skip
def test_a_command_that_uses_broken_code_names_its_package(command, arguments, message, tmp_path):
    (tmp_path / "mlp.yaml").write_text((REPOSITORY / "configs" / "mlp-digits.yaml").read_text(encoding="utf-8"))
    done = cli(command, "mlp.yaml", *arguments, packages=("broken_plugin",), folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.replace("\n", " ").replace("  ", " ")
    assert "Traceback" not in done.stderr


def test_two_packages_with_one_name_are_both_named(tmp_path):
    twin = tmp_path / "twin-1.0.dist-info"
    twin.mkdir()
    (twin / "METADATA").write_text("Metadata-Version: 2.1\nName: twin\nVersion: 1.0\n", encoding="utf-8")
    (twin / "entry_points.txt").write_text("[mutransfer.optimizers]\nsignsgd = twin:ITS_OWN\n", encoding="utf-8")
    (tmp_path / "toy.yaml").write_text(CONFIG + "hparams: {optimizer: signsgd}\n", encoding="utf-8")
    done = cli("audit", "toy.yaml", packages=("toy_plugin", "toy_optimizer", str(tmp_path)), folder=tmp_path)
    assert done.returncode == 2
    assert "signsgd: the packages toy-optimizer and twin both offer it; uninstall one of them" in done.stderr
