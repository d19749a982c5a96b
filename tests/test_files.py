"""Folders that one process has to itself, and that are as before where the work was refused; files that are whole or
as before, whatever library writes them; files that are read only where they are files."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from matplotlib.figure import Figure
from pydantic import BaseModel

from mutransfer import files
from mutransfer.config.templates import write_template
from mutransfer.data.shards import ShardWriter
from mutransfer.errors import UsageError
from mutransfer.files import (
    disk_errors,
    open_file,
    read_bytes,
    read_json,
    read_text,
    replacing,
    sole_folder,
    write_atomic,
    write_json,
)
from mutransfer.report.figures import save_figure
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.study import Study
from mutransfer.training.checkpoint import save_checkpoint, save_weights
from mutransfer.training.losses import MetricsFile
from tests.conftest import build


def work(path, *, leave=(), refuse=True):
    with sole_folder(path, path / ".lock", lambda: "in use", begun=("config.yaml",)):
        for name in leave:
            (path / name).write_text("x")
        if refuse:
            raise UsageError("refused")


def test_what_was_refused_leaves_nothing(tmp_path):
    with pytest.raises(UsageError, match="refused"):
        work(tmp_path / "new" / "run", leave=["config.yaml"])
    assert not (tmp_path / "new").exists()


def test_what_came_to_something_stays(tmp_path):
    with pytest.raises(UsageError, match="refused"):
        work(tmp_path / "run", leave=["config.yaml", "study.db"])
    assert {"config.yaml", "study.db"} <= {path.name for path in (tmp_path / "run").iterdir()}
    work(tmp_path / "other", leave=["config.yaml"], refuse=False)
    with pytest.raises(UsageError, match="refused"):  # what was there before is not this call's
        work(tmp_path / "other")
    assert (tmp_path / "other" / "config.yaml").exists()


def test_one_that_came_a_moment_later_removes_nothing_of_the_first(tmp_path, monkeypatch):
    """Both saw no folder; the other was first to make it and to take the lock."""
    path, make_folder = tmp_path / "run", files.make_folder
    first = FileLock(path / ".lock")

    def overtaken(folder):
        make_folder(folder)
        first.acquire()
        (path / "config.yaml").write_text("the first one's")
        return folder

    monkeypatch.setattr(files, "make_folder", overtaken)
    with pytest.raises(UsageError, match="in use"):
        work(path)
    assert (path / "config.yaml").read_text() == "the first one's"
    assert (path / ".lock").exists()
    first.release()


@contextlib.contextmanager
def full_disk(size=1000):
    """No file can grow beyond `size` bytes: the system refuses in the middle of a write, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def torch_saves(path):
    save_checkpoint(path, {"step": 1, "model": {"weight": torch.zeros(5000)}})


def safetensors_saves(path):
    save_weights(path, torch.nn.Linear(100, 100))


def shards_are_written(path):
    writer = ShardWriter(path.parent, dtype="uint16", size=5000, plan={})
    writer.add(np.zeros(5000, dtype=np.uint16), [(5000, (0, 0, 1))])


WRITERS = {
    "text": (lambda path: write_atomic(path, "x" * 5000), "file.bin"),
    "json": (lambda path: write_json(path, ["x" * 5000]), "file.bin"),
    "torch": (torch_saves, "file.bin"),
    "safetensors": (safetensors_saves, "file.bin"),
    "numpy": (lambda path: write_atomic(path, lambda file: np.save(file, np.zeros(5000))), "file.bin"),
    "figure": (lambda path: save_figure(Figure(), path.with_suffix("")), "file.png"),
    "shards": (shards_are_written, "shard-00000.bin"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_named_and_the_last_good_file_stays(tmp_path, writer):
    write, name = WRITERS[writer]
    (tmp_path / name).write_bytes(b"good")
    with full_disk(), pytest.raises(UsageError, match=rf"{name}: cannot be written: File too large"):
        write(tmp_path / "file.bin")
    assert (tmp_path / name).read_bytes() == b"good"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    write(tmp_path / "file.bin")
    assert (tmp_path / name).stat().st_size > 1000


def test_a_full_disk_where_lines_are_added_keeps_the_lines_before(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.add({"step": 0, "loss": 1.0})
    file.flush()
    for step in range(1, 100):
        file.add({"step": step, "loss": 1.0})
    with full_disk(), pytest.raises(UsageError, match=r"metrics.jsonl: cannot be written: File too large"):
        file.flush()
    assert (tmp_path / "metrics.jsonl").read_text().startswith('{"step": 0, "loss": 1.0}\n')


def test_a_full_disk_under_a_study_and_a_template(gpt, tmp_path):
    folder = SweepFolder(tmp_path / "run")
    folder.root.mkdir()
    with full_disk(), pytest.raises(UsageError, match=r"study cannot be|cannot be written"):
        Study.create(folder, build(gpt), {})
    assert not folder.study.exists()
    with full_disk(10), pytest.raises(UsageError, match=r"x.yaml: cannot be written: File too large"):
        write_template("gpt", tmp_path / "x.yaml")
    assert not (tmp_path / "x.yaml").exists()


def test_an_error_of_the_writer_itself_is_not_the_disks(tmp_path):
    for error in (ValueError("no"), RuntimeError("no"), UsageError("no")):
        with pytest.raises(type(error), match=r"^no$"), replacing(tmp_path / "x"):
            raise error
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="x: cannot be written: No space left on device"), disk_errors(tmp_path / "x"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


class Form(BaseModel):
    """Something."""

    number: int


DAMAGED = {
    b"": "is not JSON: EOF",
    b"\xff": "is not JSON",
    b"[": "is not JSON",
    b"[" * 20_000: "is not JSON: recursion limit exceeded",
    b"[]": r"must be an object",
    b"1": r"must be an object, but got 1",
    b"null": r"must be an object, but got None",
    b"{}": "number: is required",
    b'{"number": "x"}': "number: ",
    b'{"number": NaN}': "number: must be finite|number: ",
    b'{"number": 1' + b"0" * 6000 + b"}": "is not JSON: number out of range",
}


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: str(content[:20]))
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UsageError, match=rf"x.json: is damaged \(({DAMAGED[content]}).*\); remove it$") as caught:
        read_json(tmp_path / "x.json", Form, advice="remove it")
    assert len(str(caught.value)) < 300


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "latin").write_bytes(b"\xe9")
    for path, problem in (
        (tmp_path / "pipe", "is a pipe or a device, not a file"),
        (Path("/dev/zero"), "is a pipe or a device, not a file"),
        (tmp_path / "folder", "is a folder, not a file"),
        (tmp_path / "loop", "cannot be read: Too many levels of symbolic links"),
        (tmp_path / "gone" / "x", "no such file"),
        (tmp_path / "latin" / "x", "no such file"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
        (Path("a\0b"), "cannot be read: embedded null byte"),
    ):
        with pytest.raises(UsageError, match=problem):
            read_bytes(path)
    with pytest.raises(UsageError, match="latin: is not UTF-8 text"):
        read_text(tmp_path / "latin")
    with pytest.raises(UsageError, match="has 1 bytes, but at most 0 are possible here"):
        read_text(tmp_path / "latin", most=0)
    for mode in ("w", "ab", "r"):
        with pytest.raises(OSError, match=r"is a pipe or a device|No such device"):
            open_file(tmp_path / "pipe", mode)
