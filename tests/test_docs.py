"""What the documents say is true: generated parts are fresh, every command is named, the Python example runs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from mutransfer.cli import _VERBS
from mutransfer.verification import CoordinateCheck
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_generated_docs_are_fresh():
    done = subprocess.run(
        [sys.executable, "docs/build.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", _VERBS)
def test_every_command_is_in_the_readme(verb):
    assert f"| `mutransfer {verb}" in README


def test_the_yaml_of_the_walk_is_the_shipped_config():
    (block,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    shipped = (REPOSITORY / "configs" / "proxy.yaml").read_text(encoding="utf-8")
    assert block == "".join(line for line in shipped.splitlines(keepends=True) if not line.startswith("#"))


def test_python_example_runs_and_scales():
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    optimizer, model = names["optimizer"], names["model"]
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["lr"] for group in optimizer.param_groups} == {4e-3, 4e-3 / 8}
    assert {group["eps"] for group in optimizer.param_groups} == {1e-8, 1e-8 / 8}  # the readout's bias has no width
    loss = torch.nn.functional.cross_entropy(model(torch.arange(8)), torch.arange(8))
    loss.backward()
    optimizer.step()


def test_the_example_of_the_coordinate_check_says_what_it_is_meant_to(capsys):
    page = (REPOSITORY / "docs" / "verification.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(block, "docs/verification.md", "exec"), names)
    check, own = names["check"], names["own"]
    assert isinstance(check, CoordinateCheck)
    assert isinstance(own, CoordinateCheck)
    assert check.outcome == "passed"
    assert own.outcome == "failed"
    assert capsys.readouterr().out.startswith("passed: all 4 modules")


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (REPOSITORY / link).exists(), link


def test_nothing_is_left_to_fill_in():
    assert not re.findall(r"@[A-Z]+@|TODO|TBD", README)
