"""The main job as a user types it, from `init` to a trained target."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

SMALL = ["--set", "model.width=32", "--set", "model.base_width=32", "--set", "model.head_dim=8", "--set",
         "model.depth=1", "--set", "data.seq_len=16", "--set", "training.steps=20", "--set",
         "training.batch_size=4", "--set", "search.trials=3", "--set", "search.confirm.seeds=1"]  # fmt: skip


def mutransfer(*arguments, cwd, check=True):
    command = [sys.executable, "-m", "mutransfer", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert not check or done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a finished sweep of the template that `init` writes."""
    folder = tmp_path_factory.mktemp("workplace")
    assert "mutransfer sweep proxy.yaml" in mutransfer("init", cwd=folder).stdout
    done = mutransfer("sweep", "proxy.yaml", *SMALL, cwd=folder)
    assert "Best of 3 trials of gpt-proxy" in done.stdout
    assert "Seed noise of the best trial" in done.stdout
    assert "Next: mutransfer transfer --width 256" in done.stdout
    assert "[3/3]" in done.stderr
    return folder


def test_transfer_launches_the_target(workplace):
    done = mutransfer("transfer", "--width", "64", "--launch", cwd=workplace)
    assert "changed    model.width: 32 → 64" in done.stdout
    assert "validation loss" in done.stdout
    assert "warning: the proxy is below the smallest" in done.stderr
    (target,) = (workplace / "runs" / "gpt-proxy" / "targets").glob("w64-t*")
    best = yaml.safe_load((workplace / "runs" / "gpt-proxy" / "best.yaml").read_text())
    assert yaml.safe_load((target / "config.yaml").read_text())["hparams"] == best["hparams"]
    assert (target / "model.safetensors").exists()
    again = json.loads(mutransfer("transfer", "--width", "64", "--launch", "--json", cwd=workplace).stdout)
    assert again["launched"]["outcome"] == "completed"
    assert again["tuning_share"] > 0


# A process counts as its own peak what its parent held when it started it, so a small one stands between.
MEASURED = """
import json, resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "mutransfer", *sys.argv[1:]], stdout=subprocess.PIPE, check=True)
print(json.dumps([json.loads(done.stdout), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
"""


def test_width_8192_is_planned_without_its_weights(workplace):
    command = [sys.executable, "-c", MEASURED, "transfer", "--width", "8192", "--json"]
    done = subprocess.run(command, cwd=workplace, check=True, capture_output=True, text=True)
    answer, kilobytes = json.loads(done.stdout)
    assert answer["parameters"] > 800_000_000  # 3.2 GB in fp32
    assert kilobytes < 1_000_000
    assert answer["changed"] == ["model.width: 32 → 8192"]


def test_status_lists_runs_trials_and_targets(workplace):
    mutransfer("transfer", "--width", "96", cwd=workplace)
    assert "gpt-proxy" in mutransfer("status", cwd=workplace).stdout
    (run,) = json.loads(mutransfer("status", "--json", cwd=workplace).stdout)["runs"]
    assert (run["run"], run["state"], run["done"], run["total"]) == ("gpt-proxy", "finished", 3, 3)
    one = json.loads(mutransfer("status", "gpt-proxy", "--json", cwd=workplace).stdout)
    assert [trial["number"] for trial in one["trials"]] == [0, 1, 2]
    assert any(target["state"] == "planned" for target in one["targets"])
    assert "w96-t" in mutransfer("status", "gpt-proxy", cwd=workplace).stdout


def test_audit_prints_every_parameter_before_and_after(workplace):
    arguments = ["audit", "proxy.yaml", *SMALL[:6], "--set", "hparams.weight_decay=0.1", "--width", "128"]
    answer = json.loads(mutransfer(*arguments, "--json", cwd=workplace).stdout)
    rows = {row["parameter"]: row for row in answer["parameters"]}
    up = rows["blocks.0.up.weight"]
    assert (up["shape"], up["role"], up["fan_in"], up["m_in"]) == ([512, 128], "hidden", 128, 4)
    assert up["lr"] == pytest.approx([4e-3, 1e-3])
    assert up["weight_decay"] == pytest.approx([0.1, 0.4])
    assert up["eps"] == pytest.approx([1e-8, 2.5e-9])
    assert up["init_std"] == pytest.approx([32**-0.5, 128**-0.5])
    assert rows["readout.weight"]["forward"] == [1.0, 0.25]
    printed = mutransfer(*arguments, cwd=workplace).stdout
    for text in ("blocks.0.up.weight", "512×128", "0.004 → 0.001", "0.1 → 0.4", "1 → 0.25", "attention scale"):
        assert text in printed


def test_train_is_stopped_and_resumed_to_the_same_losses(workplace):
    small = [*SMALL[:12], "--set", "training.steps=200", "--set", "training.checkpoint_every=50"]
    mutransfer("train", "proxy.yaml", *small, "--out", "whole", cwd=workplace)
    command = [sys.executable, "-m", "mutransfer", "train", "proxy.yaml", *small, "--out", "parts"]
    process = subprocess.Popen(command, cwd=workplace, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("step "):
            break
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert process.returncode == 4, errors
    assert "continue: mutransfer train proxy.yaml --set" in errors
    assert "--out parts --resume" in errors
    refused = mutransfer("train", "proxy.yaml", *small, "--out", "parts", cwd=workplace, check=False)
    assert refused.returncode == 2
    mutransfer("train", "proxy.yaml", *small, "--out", "parts", "--resume", cwd=workplace)
    assert (workplace / "parts" / "metrics.jsonl").read_text() == (workplace / "whole" / "metrics.jsonl").read_text()


def test_diverged_training_is_exit_code_3(workplace):
    arguments = [*SMALL[:12], "--set", "hparams={optimizer: sgd, lr: 1e9, warmup: 0}", "--out", "diverged"]
    done = mutransfer("train", "proxy.yaml", *arguments, cwd=workplace, check=False)
    assert done.returncode == 3
    assert "training diverged at step" in done.stderr


def test_a_launch_that_is_killed_is_continued_by_the_same_command(workplace):
    """The run saves and leaves by itself, and nothing is lost or trained twice."""
    arguments = ["transfer", "--width", "48", "--steps", "600", "--launch", "--json"]
    command = [sys.executable, "-m", "mutransfer", *arguments]
    process = subprocess.Popen(command, cwd=workplace, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith("step "):
            break
    process.kill()
    process.wait()
    with process.stderr:
        rest = process.stderr.read()  # until the run, which writes there too, is gone
    (target,) = (workplace / "runs" / "gpt-proxy" / "targets").glob("w48-*")
    saved = [json.loads(line)["step"] for line in (target / "metrics.jsonl").read_text().splitlines()]
    assert 0 < len(saved) < 600, said + rest
    assert "continue: mutransfer train " in rest
    answer = json.loads(mutransfer(*arguments, cwd=workplace).stdout)
    assert answer["launched"]["steps"] == 600
    lines = [json.loads(line) for line in (target / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(600))


def test_failed_launch_is_exit_code_5(workplace):
    """The config of a target is broken by hand between two commands."""
    mutransfer("transfer", "--width", "128", cwd=workplace)
    (target,) = (workplace / "runs" / "gpt-proxy" / "targets").glob("w128-t*")
    (target / "checkpoints").mkdir()
    (target / "checkpoints" / "step-00000005.pt").write_bytes(b"truncated")
    done = mutransfer("transfer", "--width", "128", "--launch", cwd=workplace, check=False)
    assert done.returncode == 5
    assert "the target run failed: " in done.stderr
    assert "checkpoint cannot be read" in done.stderr


@pytest.mark.parametrize("imported", ["torch.version", "torch._jit_internal", "torch.optim.lr_scheduler"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_starting_is_exit_code_4_and_one_json_object(workplace, number, imported):
    """Torch's import calls Python from C++, where an exception raised by a handler would abort the process."""
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "mutransfer",
        "train",
        "proxy.yaml",
        "--out",
        "early",
        "--json",
    ]
    process = subprocess.Popen(command, cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any(line.rstrip().endswith(imported) for line in process.stderr), "never imported"
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 4, errors
    assert json.loads(output)["exit_code"] == 4
    assert "error: stopped at once" in errors
    assert "Traceback" not in errors


def test_tables_are_whole_in_a_narrow_terminal(workplace):
    """In a terminal of 80 columns lines wrap, and no cell is cut."""
    import pty

    leader, follower = pty.openpty()
    subprocess.run(["stty", "cols", "80"], stdin=follower, check=True)
    command = [sys.executable, "-m", "mutransfer", "audit", "proxy.yaml", *SMALL[:6], "--width", "128"]
    with subprocess.Popen(command, cwd=workplace, stdout=follower, stderr=follower) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                shown += os.read(leader, 4096)
            except OSError:
                break
    assert process.returncode == 0
    assert "0.004 → 0.001" in shown.decode()
    assert "…" not in shown.decode()
