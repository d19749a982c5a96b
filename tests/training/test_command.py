"""One run of a trainer's command: what it is given, what is read of it, how it ends and that nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mutransfer.config.models.command import LossFrom
from mutransfer.errors import NothingUsable, UsageError
from mutransfer.training.command import run_command
from mutransfer.training.command_losses import Reading, Tail, find
from mutransfer.training.folder import TrainFolder
from mutransfer.training.losses import read_metrics
from mutransfer.training.run import train
from mutransfer.training.trainers.base import RunFailed
from tests.conftest import build

pytestmark = pytest.mark.skipif(os.name != "posix", reason="process groups")


def command(program, *arguments, **changes):
    """The config of a command that runs `program`, with width and lr as its first arguments."""
    escaped = program.replace("{", "{{").replace("}", "}}")
    data = {
        "name": "own",
        "model": {
            "kind": "command", "width": 32, "base_width": 16, "loss_from": {"json_lines": "stdout"},
            "command": ["{python}", "-S", "-c", escaped, "{width}", "{lr}", "{steps}", *arguments],
        },
        "training": {"steps": 7},
        "hparams": {"lr": 0.25},
    }  # fmt: skip
    return build(data, **changes)


def said(*losses):
    return "import json\n" + "".join(f"print('{json.dumps({'step': k, 'val_loss': loss})}', flush=True)\n"
                                     for k, loss in enumerate(losses, start=1))  # fmt: skip


def gone(pid, seconds=5.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_the_last_loss_counts_and_every_one_is_kept(tmp_path):
    result = run_command(command(said(3.0, 1.5, 2.0)), tmp_path)
    assert (result.outcome, result.validation_loss, result.steps) == ("completed", 2.0, 3)
    assert [(one["step"], one["validation_loss"]) for one in read_metrics(tmp_path / "metrics.jsonl")] == [
        (1, 3.0), (2, 1.5), (3, 2.0)
    ]  # fmt: skip
    lowest = command(said(3.0, 1.5, 2.0), model__loss_from__takes="minimum")
    assert run_command(lowest, tmp_path).validation_loss == 1.5


def test_settings_come_as_arguments_and_as_variables_without_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")  # as the worker of one GPU has it
    program = (
        "import json, os, sys\n"
        "keep = ('MUTRANSFER_LR', 'MUTRANSFER_BETA2', 'MUTRANSFER_TRIAL_FOLDER', 'MINE', 'CUDA_VISIBLE_DEVICES')\n"
        "print(json.dumps({'val_loss': 1, 'argv': sys.argv[1:], 'env': {k: os.environ[k] for k in keep}}))"
    )
    config = command(program, "; rm -rf {{x}} $HOME", "{width_multiplier}", "{eps}", "{trial_folder}/a",
                     model__environment={"MINE": "w{width}"}, hparams__eps=1e-5)  # fmt: skip
    run_command(config, tmp_path)
    got = json.loads((tmp_path / "stdout.txt").read_text())
    assert got["argv"] == ["32", "0.25", "7", "; rm -rf {x} $HOME", "2.0", "1e-05", f"{tmp_path}/a"]
    assert got["env"] == {"MUTRANSFER_LR": "0.25", "MUTRANSFER_BETA2": "0.95", "MINE": "w32",
                          "MUTRANSFER_TRIAL_FOLDER": str(tmp_path), "CUDA_VISIBLE_DEVICES": "3"}  # fmt: skip


@pytest.mark.parametrize("bad", ["float('nan')", "float('inf')", "4.6"])
def test_a_diverged_command_is_ended_at_once_with_all_it_started(bad, tmp_path):
    program = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "far = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "pathlib.Path(sys.argv[4], 'pids').write_text(f'{child.pid} {far.pid}')\n"
        "print('loss: 1.5', flush=True)\n"
        f"print('loss:', {bad}, flush=True)\n"
        "time.sleep(60)"
    )
    config = command(program, "{trial_folder}", model__loss_from={"regex": r"loss: (\S+)"})
    began = time.monotonic()
    result = run_command(config, tmp_path)
    assert time.monotonic() - began < 5
    assert (result.outcome, result.validation_loss) == ("diverged", None)
    near, far = map(int, (tmp_path / "pids").read_text().split())
    assert gone(near)
    assert gone(far) or not Path("/proc/self/stat").exists()


def test_a_loss_below_the_divergence_factor_goes_on(tmp_path):
    assert run_command(command(said(1.5, 4.4, 1.0)), tmp_path).outcome == "completed"


def test_nan_before_a_crash_is_divergence_not_a_crash(tmp_path):
    result = run_command(command("print('{\"val_loss\": NaN}')\nraise SystemExit('NaN loss')"), tmp_path)
    assert result.outcome == "diverged"


def test_a_crash_keeps_the_last_lines_and_memory_has_an_outcome_of_its_own(tmp_path):
    with pytest.raises(RunFailed, match=r"exit code 1: ValueError: no such optimizer") as caught:
        run_command(command(said(1.0) + "raise ValueError('no such optimizer')"), tmp_path)
    assert "Traceback (most recent call last)" in caught.value.lines
    with pytest.raises(RunFailed, match=r"exit code 137 \(killed by signal 9\)"):
        run_command(command("import os\nos.kill(os.getpid(), 9)"), tmp_path)
    full = command("raise MemoryError('CUDA out of memory. Tried to allocate 2 GiB')")
    assert run_command(full, tmp_path).outcome == "out_of_memory"


def test_no_loss_and_no_program_are_said_with_what_there_was(tmp_path):
    with pytest.raises(UsageError, match=r"(?s)field 'val_loss' of a JSON line in stdout.*last lines.*eval_loss"):
        run_command(command("print('{\"eval_loss\": 1.0}')"), tmp_path)
    with pytest.raises(UsageError, match="no such program: trainn"):
        run_command(command("", model__command=["trainn", "{width}", "{lr}", "{steps}"]), tmp_path)


def test_a_run_of_no_program_leaves_nothing_behind(tmp_path):
    config = command("", model__command=["trainn", "{width}", "{lr}", "{steps}"])
    with pytest.raises(UsageError, match="no such program: trainn"):
        train(config, TrainFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_beyond_its_time_is_ended(tmp_path):
    with pytest.raises(RunFailed, match=r"longer than model.timeout, 0.3 s"):
        run_command(command(said(1.0) + "import time\ntime.sleep(60)", model__timeout=0.3), tmp_path)


def test_a_command_is_gone_when_its_worker_is_killed_and_its_folder_free_again(tmp_path):
    config = command(said(1.0) + "import os, time\nopen(os.environ['MUTRANSFER_TRIAL_FOLDER'] + '/pid', 'w')"
                     ".write(str(os.getpid()))\ntime.sleep(60)")  # fmt: skip
    program = (
        "import json, sys\nfrom pathlib import Path\nfrom mutransfer.config.schema import RunConfig\n"
        "from mutransfer.training.command import run_command\n"
        "run_command(RunConfig.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]))"
    )
    worker = subprocess.Popen([sys.executable, "-c", program, json.dumps(config.resolved()), str(tmp_path)])
    deadline = time.monotonic() + 30
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    pid = int((tmp_path / "pid").read_text())
    assert not gone(pid, 0.1)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert gone(pid)
    assert run_command(command(said(2.0)), tmp_path).validation_loss == 2.0


def test_reading_finds_losses_among_other_lines():
    nested = LossFrom(json_lines="stdout", field="metrics.val", step_field="it")
    assert list(find('{"metrics": {"val": "2.5"}, "it": 4}', nested)) == [(2.5, 4)]
    assert [list(find(line, nested)) for line in ("noise", "[1]", '{"metrics": {"val": null}}', "{}")] == [[]] * 4
    named = LossFrom(regex=r"iter (?P<step>\d+).* val loss (?P<loss>[0-9.eE+-]+|nan)")
    assert list(find("iter 30: train loss 1.0, val loss 1.25e-1", named)) == [(0.125, 30)]
    reading = Reading(factor=3.0)
    for loss in (1.0, 2.9, 0.5):
        reading.add(loss, None)
    assert (reading.value, reading.step, reading.diverged) == (0.5, None, False)
    reading.add(3.1, 9)
    assert reading.diverged


def test_a_tail_gives_whole_lines_once_and_follows_a_file_written_anew(tmp_path):
    path = tmp_path / "log"
    tail = Tail(path)
    assert tail.lines() == []
    path.write_bytes(b"one\ntwo\rthr")
    assert tail.lines() == ["one", "two"]
    with path.open("ab") as file:
        file.write(b"ee\nfour")
    assert tail.lines() == ["three"]
    assert tail.lines(ended=True) == ["four"]
    path.write_bytes(b"new\n")
    assert tail.lines() == ["new"]


def test_train_runs_the_command_in_the_runs_folder_and_goes_on_when_told_to(tmp_path):
    program = (
        "import os, time, sys\n"
        "again = os.environ['MUTRANSFER_RESUME'] == 'true'\n"
        'print(\'{"step": %d, "val_loss": %s}\' % ((2, 0.5) if again else (1, 1.0)), flush=True)\n'
        "time.sleep(0 if again else 60)"
    )
    config, folder, seen = command(program), TrainFolder(tmp_path / "run"), []
    stopped = train(config, folder, should_stop=lambda: bool(seen), on_progress=lambda news: seen.append(news.loss))
    assert (stopped.outcome, seen) == ("interrupted", [1.0])
    with pytest.raises(UsageError, match="holds a run already"):
        train(config, folder)
    done = train(config, folder, resume=True)
    assert (done.outcome, done.validation_loss, done.steps) == ("completed", 0.5, 2)
    assert [one["validation_loss"] for one in read_metrics(folder.metrics)] == [1.0, 0.5]
    with pytest.raises(NothingUsable, match=r"(?s)exit code 3.*Its last lines were:\nsorry"):
        train(command("import sys\nprint('sorry', file=sys.stderr)\nsys.exit(3)"), TrainFolder(tmp_path / "bad"))
