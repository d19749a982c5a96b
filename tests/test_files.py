"""Folders that one process has to itself, and that are as before where the work was refused."""

from __future__ import annotations

import pytest
from filelock import FileLock

from mutransfer import files
from mutransfer.errors import UsageError
from mutransfer.files import sole_folder


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
