"""Sweeps of a user's own trainer, in real workers: retries, interruption, resumption, transfer, launch."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mutransfer.config.load import load_config
from mutransfer.errors import NothingUsable, UsageError
from mutransfer.executors.devices import Device
from mutransfer.executors.inline import InlineExecutor
from mutransfer.executors.local import LocalExecutor
from mutransfer.sweep.coordinator import run_sweep
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.study import Study
from mutransfer.transfer.target import Overrides, make_target
from tests.cli.conftest import invoke
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")

# A parabola in log lr, lower for wider; logs who ran, and where.
TRAINER = """\
import json, math, os, sys, time
lr, width, seed, folder = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
with open(os.environ["LOG"], "a") as log:
    log.write(json.dumps([folder, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")]) + "\\n")
if os.environ.get("FAIL") and not os.path.exists(folder + "/once"):
    open(folder + "/once", "w").close()
    sys.exit("cannot open the data")
for step in (1, 2):
    print(f"step {step} val loss {(math.log10(lr) + 2) ** 2 + 1 / width + 1e-4 * seed + 1 / step}", flush=True)
    time.sleep(float(os.environ.get("SLOW", "0")))
"""
CONFIG = """\
name: own
model:
  kind: command
  width: 16
  base_width: 16
  command: ["{python}", -S, trainer.py, "{lr}", "{width}", "{seed}", "{trial_folder}"]
  loss_from: {regex: 'step (?P<step>\\d+) val loss (?P<loss>\\S+)'}
search: {trials: 4, confirm: {seeds: 1}, space: {lr: {log_uniform: [1e-3, 1e-1]}}}
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "trainer.py").write_text(TRAINER)
    (tmp_path / "own.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.delenv("MUTRANSFER_RUNS", raising=False)
    return tmp_path


def inline():
    return InlineExecutor(Device("cpu", "cpu", 1))


def test_a_program_that_is_not_there_leaves_the_name_free(home):
    wrong = CONFIG.replace('"{python}"', "nosuchprogram")
    Path("own.yaml").write_text(wrong)
    with pytest.raises(UsageError, match="no such program: nosuchprogram"):
        run_sweep(load_config(Path("own.yaml")), executor=inline)
    assert not Path("runs").exists()


def log():
    return [json.loads(line) for line in Path("log").read_text().splitlines()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_sweep_finds_the_winner_and_says_that_it_was_not_checked(home):
    result = run_sweep(load_config("own.yaml"), executor=inline, check=None)
    assert [one.outcome for one in result.records] == ["completed"] * 4
    best = result.selection.best
    assert best.value == min(one.value for one in result.records)
    assert (best.steps, result.selection.runs) == (2, 2)
    assert len(log()) == 5  # four trials, one more seed of the best, no measurement of packs


def test_each_worker_passes_its_device_on(home):
    devices = [Device(f"cuda:{k}", "cpu", 1, {"CUDA_VISIBLE_DEVICES": str(k)}) for k in (4, 5)]
    run_sweep(load_config("own.yaml"), executor=lambda: LocalExecutor(devices))
    assert {device for _, _, device in log()} == {"4", "5"}


def test_a_crash_is_tried_again_and_its_last_lines_kept(home, monkeypatch):
    monkeypatch.setenv("FAIL", "1")
    config = load_config("own.yaml")
    result = run_sweep(config, executor=inline)
    assert [one.outcome for one in result.records] == ["completed"] * 4
    assert (result.folder.trial(0) / "error.txt").read_text() == "cannot open the data\n"
    with pytest.raises(
        NothingUsable, match="every trial crashed, the last with: the command ended with exit code 1: can"
    ):
        run_sweep(load_config("own.yaml", ["name=none", "search.retries=0"]), executor=inline)


def test_packs_and_a_missing_loss_are_refused(home):
    with pytest.raises(UsageError, match="--pack 2: a command trains one trial at a time"):
        run_sweep(load_config("own.yaml"), executor=inline, pack=2)
    assert not Path("runs").exists()
    with pytest.raises(UsageError, match=r"(?s)no loss was found.*'accuracy.*step 2 val loss"):
        run_sweep(load_config("own.yaml", ["model.loss_from={regex: 'accuracy (.*)'}"]), executor=inline)
    assert len(log()) == 1


def test_the_target_is_the_command_at_another_width(home):
    code, _, stderr = invoke("sweep", "own.yaml", "--workers", "1")
    assert code == 0
    assert "Quick coordinate check not run" in stderr
    code, stdout, _ = invoke("transfer", "--width", "64", "--json")
    answer = json.loads(stdout)
    assert (code, answer["parameters"], answer["changed"]) == (0, None, ["model.width: 16 → 64"])
    assert answer["warnings"][0].startswith("whether the command follows µP cannot be seen")
    target = load_config(answer["config"])
    assert target.provenance.check.startswith("not run")
    code, stdout, _ = invoke("train", answer["config"], "--json")
    lr, trained = target.hparams.lr, json.loads(stdout)
    assert (code, trained["outcome"]) == (0, "completed")
    assert trained["validation_loss"] == pytest.approx((math.log10(lr) + 2) ** 2 + 1 / 64 + 0.5)
    assert log()[-1][0] == str(Path(answer["config"]).parent.resolve())


def test_a_width_below_the_base_and_settings_without_a_placeholder_are_refused(home):
    run_sweep(load_config("own.yaml"), executor=inline)
    folder = SweepFolder(Path("runs/own"))
    with pytest.raises(UsageError, match="narrower than the base width"):
        make_target(folder, Overrides(width=8))
    with pytest.raises(UsageError, match=r"--batch-size 64: training.batch_size: has no effect"):
        make_target(folder, Overrides(width=64, batch_size=64))


def test_transfer_check_takes_a_command_and_coord_check_does_not(home):
    points = ("--sizes", "16,32", "--values", "3e-3,1e-2,3e-2", "--workers", "1", "--json")
    code, stdout, stderr = invoke("transfer-check", "own.yaml", *points)
    assert code == 0, stdout
    assert "No control: the command never gets {parametrization}" in stderr
    assert json.loads(stdout)["passed"]
    for verb in (("coord-check",), ("audit",)):
        code, _, stderr = invoke(*verb, "own.yaml")
        assert (code, "command" in stderr) == (2, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sweep_leaves_no_command_and_runs_its_trials_again(home, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "mutransfer", "sweep", "own.yaml", "--workers", "2"],
        env={**os.environ, "SLOW": "30", "PYTHONPATH": str(REPOSITORY)}, stderr=subprocess.DEVNULL, cwd=home,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (Path("log").exists() and len(log()) == 2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pids = [pid for _, pid, _ in log()]
    assert all(map(alive, pids))
    process.send_signal(number)
    assert process.wait(timeout=60) == (-9 if number == signal.SIGKILL else 4)
    deadline = time.monotonic() + 30
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, "a command is left over"
        time.sleep(0.05)
    assert Study(SweepFolder(Path("runs/own")).study, None).records()[0].outcome is None
    result = run_sweep(load_config("own.yaml"), executor=inline)
    assert [one.outcome for one in result.records] == ["completed"] * 4
