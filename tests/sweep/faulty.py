"""Sweeps as users run them, in processes of their own, and what can be done to them from outside."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.status import status
from mutransfer.sweep.study import Study
from tests.conftest import REPOSITORY

TRIALS = 6
INJECTED = Path(__file__).parent / "injected"
_MARK = "MUTRANSFER_TEST_SWEEP"
_DAC_OVERRIDE, _DAC_READ_SEARCH, _DROP = 1, 2, 24

# Every way in which a sweep keeps a study: packs, single trials, stages with a confirmation of two, a pruner.
SHAPES: dict[str, tuple[dict[str, Any], int]] = {
    "packed": ({"confirm": {"seeds": 1}}, 2),
    "single": ({"confirm": {"seeds": 1}}, 1),
    "staged": ({"stages": [{"steps": 60}, {"keep": 0.5}], "confirm": {"top": 2, "seeds": 1}}, 2),
    "pruned": ({"pruner": {"kind": "median", "startup": 1, "lag": 2}, "confirm": {"seeds": 1}}, 1),
}


def write_config(root: Path, shape: str, **search: Any) -> Path:
    """The config of a small sweep of that shape."""
    (root / "corpus.txt").write_text(
        "".join(f"{k * k} bottles of beer on the wall, take {k} down\n" for k in range(999))
    )
    data = {
        "name": "faulty",
        "model": {"kind": "gpt", "width": 16, "base_width": 16, "depth": 1, "head_dim": 8},
        "data": {"kind": "text", "paths": [str(root / "corpus.txt")], "seq_len": 32},
        "training": {"steps": 150, "batch_size": 8},
        "search": {"trials": TRIALS, "space": {"lr": {"log_uniform": [1e-3, 1e-1]}}, **SHAPES[shape][0], **search},
    }
    if shape == "pruned":
        data["hparams"] = {"schedule": "constant"}
    path = root / f"{shape}.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


class Sweep:
    """`mutransfer sweep` in a process of its own; everything that comes of it carries a mark of its own."""

    def __init__(
        self,
        config: Path,
        runs: Path,
        *,
        workers: int = 2,
        pack: int | None = None,
        check: bool = False,
        obeys_permissions: bool = False,
        **environment: str,
    ) -> None:
        self.mark = uuid.uuid4().hex
        size = SHAPES[config.stem][1] if pack is None else pack
        command = [sys.executable, "-m", "mutransfer", "sweep", str(config), "--runs", str(runs)]
        command += ["--workers", str(workers), "--pack", str(size), *([] if check else ["--no-check"])]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", _MARK: self.mark, **environment},
            preexec_fn=obey_permissions if obeys_permissions else None,  # noqa: PLW1509
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self, code: int | tuple[int, ...], seconds: float = 300) -> str:
        """Wait for the end, which has that exit code and leaves no process; what stood on stderr."""
        try:
            _, errors = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            pytest.fail("the sweep hangs")
        codes = code if isinstance(code, tuple) else (code,)
        assert self.process.returncode in codes, errors
        assert "Traceback" not in errors
        wait_gone(self.mark)
        return str(errors)

    def until(self, beginning: str) -> None:
        """Read the progress until a line begins so."""
        assert self.process.stderr is not None
        seen = ""
        for line in self.process.stderr:
            seen += line
            if line.startswith(beginning):
                return
        pytest.fail(f"no line {beginning!r} before the end:\n{seen}")

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers."""
        found = []
        for pid in marked(self.mark):
            try:
                if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                    found.append(pid)
            except OSError:
                continue
        return found

    def kill(self, *pids: int, number: int = signal.SIGKILL) -> None:
        """Send a signal; to nobody where they have ended by themselves."""
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def fill_disk(self, *pids: int) -> None:
        """From now on these processes can make no file longer."""
        for pid in pids:
            try:
                hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
            except ProcessLookupError:
                continue


def marked(mark: str) -> list[int]:
    """Processes that descend from a sweep, whatever they are, zombies aside."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{_MARK}={mark}".encode() in environ.read_bytes():
                found.append(int(environ.parent.name))
        except OSError:
            continue
    return found


def wait_gone(mark: str, seconds: float = 10) -> None:
    """No process of a sweep is left over."""
    deadline = time.monotonic() + seconds
    while left := marked(mark):
        if time.monotonic() > deadline:
            pytest.fail(f"processes left over: {left}")
        time.sleep(0.05)


def finish(config: Path, runs: Path, **arguments: Any) -> str:
    """The same command, undisturbed."""
    return Sweep(config, runs, **arguments).end(0)


def outcome(runs: Path) -> tuple[Any, Any, Any]:
    """Everything that must not depend on what happened on the way."""
    found = status(SweepFolder(runs / "faulty"))
    assert found.state == "finished"
    best = yaml.safe_load((runs / "faulty" / "best.yaml").read_text())
    trials = [
        (one.number, one.stage, one.params, one.outcome, one.value, one.training_loss, one.steps, one.seed)
        for record in found.records
        for one in (record, *record.longer)
    ]
    curves = {
        path.parent.name: path.read_text() for path in sorted((runs / "faulty" / "trials").glob("*/metrics.jsonl"))
    }
    return trials, best, curves


def obey_permissions() -> None:
    """Runs in the child: root is refused what the mode of a file refuses, like anybody."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
        libc.prctl(_DROP, capability, 0, 0, 0)


def permissions_are_obeyed(tmp_path: Path) -> bool:
    """Whether `obey_permissions` works here."""
    (tmp_path / "closed").mkdir(mode=0o555)
    command = [sys.executable, "-c", f"open({str(tmp_path / 'closed' / 'x')!r}, 'w')"]
    return subprocess.run(command, check=False, capture_output=True, preexec_fn=obey_permissions).returncode != 0


def injecting(kind: str, step: int, marker: Path) -> dict[str, str]:
    """Environment of a sweep one of whose workers fails once, at its step `step`."""
    return {
        "PYTHONPATH": os.pathsep.join((str(INJECTED), str(REPOSITORY))),
        "MUTRANSFER_TEST_FAULT": f"{kind}:{step}:{marker}",
    }


def jumping_clock(folder: Path) -> dict[str, str]:
    """Environment of a process whose time of day jumps by days."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and LD_PRELOAD")
    library = folder / "clock.so"
    build = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(INJECTED / "clock.c"), "-ldl"]
    subprocess.run(build, check=True)
    return {"LD_PRELOAD": str(library)}


def ended_curves(folder: SweepFolder) -> list[Path]:
    """Metrics files of the runs that the study says have ended."""
    study = Study(folder.study, None)
    runs = [one for record in study.records() for one in (record, *record.longer) if one.outcome is not None]
    found = [folder.trial(one.number, stage=one.stage) for one in runs]
    repeats = study.attributes.get("repeats", {})
    found += [folder.trial(int(number), repeat=int(seed)) for number, own in repeats.items() for seed in own]
    study.close()
    return [path / "metrics.jsonl" for path in found]


def tear(folder: Path, cut: Callable[[bytes], bytes]) -> int:
    """Damage the metrics files below a run folder; how many."""
    files = list((folder / "trials").glob("*/metrics.jsonl"))
    for path in files:
        path.write_bytes(cut(path.read_bytes()))
    return len(files)
