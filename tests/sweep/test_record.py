"""One definition of a run's figures: result.json, the study's records and trials.csv follow from it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mutransfer.errors import UsageError
from mutransfer.training.folder import TrainFolder
from tests.conftest import REPOSITORY

READ_AND_WRITE = """
import sys
from pathlib import Path
from mutransfer.config.load import load_config
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.record import TrialRecord
from mutransfer.sweep.results import table
from mutransfer.sweep.study import Study
from mutransfer.training.folder import TrainFolder, TrainResult

root = Path(sys.argv[1])
result = TrainResult("completed", steps=3, peak_memory=7)
folder = TrainFolder(root / "run")
folder.write_result(result)
assert folder.read_result() == result
config = load_config(sys.argv[2])
study = Study.create(SweepFolder(root / "sweep"), config, {})
(asked,) = study.ask()
record = TrialRecord(asked.number, asked.params, "completed", 1.0, **result.figures())
study.tell([record])
study.close()
(read,) = Study(SweepFolder(root / "sweep").study, None).records()
assert read == record, read
print(table([read]))
"""


def test_a_field_is_added_in_one_line(gpt: dict[str, Any], tmp_path: Path) -> None:
    package = tmp_path / "source" / "mutransfer"
    shutil.copytree(REPOSITORY / "mutransfer", package)
    home = package / "training" / "folder.py"
    text = home.read_text(encoding="utf-8")
    before = "    parameters: Annotated[int, Field(ge=0, le=2**63)] = 0\n"
    assert text.count(before) == 1
    home.write_text(text.replace(before, f"    peak_memory: int = 0\n{before}"), encoding="utf-8")
    (tmp_path / "sweep").mkdir()
    config = tmp_path / "proxy.yaml"
    config.write_text(json.dumps(gpt), encoding="utf-8")  # JSON is YAML
    shown = subprocess.run(
        [sys.executable, "-c", READ_AND_WRITE, str(tmp_path), str(config)],
        env={"PYTHONPATH": str(package.parent)}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    header, row, *_ = shown.stdout.splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["peak_memory"] == "7"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["peak_memory"] == 7


@pytest.mark.parametrize(
    ("changes", "names"),
    [({"metrics": {"bleu": "high"}}, "metrics.bleu"), ({"losses": 1.0}, "losses"), ({"steps": "3"}, "steps")],
)
def test_a_result_of_another_form_is_refused(tmp_path: Path, changes: dict[str, object], names: str) -> None:
    folder = TrainFolder(tmp_path)
    folder.result.write_text(json.dumps({"outcome": "completed", "steps": 3, **changes}), encoding="utf-8")
    with pytest.raises(UsageError, match=rf"result.json: is damaged \({names}: "):
        folder.read_result()
