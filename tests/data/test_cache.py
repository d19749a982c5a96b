"""The cache: whole or absent, made once by several processes, and done without where it cannot be written."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mutransfer.data import cache
from mutransfer.data.cache import cache_folder, cached, checksum, files_key

KEY = "0" * 32
ARRAY = np.arange(1000, dtype=np.uint16)


class Maker:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, Any]:
        self.calls += 1
        return {"ids": ARRAY, "held_out": np.array([7])}


@pytest.fixture(autouse=True)
def _warns_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_warned", set())


def ask(make: Maker) -> dict[str, Any]:
    found = cached("ids", KEY, make)
    assert {name: array.tolist() for name, array in found.items()} == {"ids": ARRAY.tolist(), "held_out": [7]}
    return found


def test_an_entry_is_made_once_and_mapped_afterwards() -> None:
    make = Maker()
    ask(make)
    found = ask(make)
    assert make.calls == 1
    assert isinstance(found["ids"].base, np.memmap)
    assert not found["ids"].flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        found["ids"][0] = 1


def damage(entry: Path, how: str) -> None:
    ids = entry / "ids.npy"
    whole = ids.read_bytes()
    if how == "one bit":
        ids.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    elif how == "torn":
        ids.write_bytes(whole[: len(whole) // 2])
    elif how == "missing":
        ids.unlink()
    elif how == "no record":
        (entry / "entry.json").unlink()
    elif how == "torn record":
        (entry / "entry.json").write_text('{"format": 1, "arr')
    elif how == "other record":
        (entry / "entry.json").write_text("[1, 2]")
    elif how == "pickle":
        np.save(ids, np.array([{"x": 1}], dtype=object), allow_pickle=True)
        record = (entry / "entry.json").read_text()
        begin = record.index('"ids": "') + 8
        (entry / "entry.json").write_text(record[:begin] + checksum(ids) + record[begin + 32 :])


@pytest.mark.parametrize("how", ["one bit", "torn", "missing", "no record", "torn record", "other record", "pickle"])
def test_a_damaged_entry_is_made_anew(how: str) -> None:
    make = Maker()
    ask(make)
    damage(cache_folder() / "ids" / KEY, how)
    ask(make)
    assert make.calls == 2
    ask(make)
    assert make.calls == 2


def test_what_a_killed_process_left_is_no_entry_and_goes() -> None:
    left = cache_folder() / "ids" / f".{KEY}.abc"
    left.mkdir(parents=True)
    (left / "ids.npy").write_bytes(b"half")
    make = Maker()
    ask(make)
    assert make.calls == 1
    assert not left.exists()


def test_a_maker_that_fails_leaves_nothing() -> None:
    def fail() -> dict[str, Any]:
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError):
        cached("ids", KEY, fail)
    assert [path.name for path in (cache_folder() / "ids").iterdir()] in ([], [f"{KEY}.lock"])
    make = Maker()
    ask(make)
    assert make.calls == 1


@pytest.mark.parametrize("blocked", ["a file", "a full disk"])
def test_without_a_place_to_write_the_work_is_done_anew_with_one_warning(
    blocked: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if blocked == "a file":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("MUTRANSFER_CACHE", str(tmp_path / "file" / "inside"))
    else:

        def full(*arguments: Any, **options: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "save", full)
    make = Maker()
    with caplog.at_level(logging.WARNING):
        ask(make)
        ask(make)
    assert make.calls == 2
    (warning,) = caplog.messages
    assert "this cache folder cannot be used" in warning
    assert "set MUTRANSFER_CACHE to another" in warning
    if blocked == "a full disk":
        assert not list((cache_folder() / "ids").glob(".*")), "the part written is taken away"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_is_read_and_otherwise_done_without() -> None:
    make = Maker()
    ask(make)
    folder = cache_folder() / "ids"
    folder.chmod(0o500)
    try:
        ask(make)
        assert make.calls == 1
        cached("ids", "1" * 32, make)
        cached("ids", "1" * 32, make)
        assert make.calls == 3
    finally:
        folder.chmod(0o700)


PROGRAM = textwrap.dedent(
    """
    import sys, time, numpy as np
    from pathlib import Path
    from mutransfer.data.cache import cached
    home = Path(sys.argv[1])
    def make():
        (home / f"made-{sys.argv[2]}").touch()
        while len(list(home.glob("here-*"))) < 2:
            time.sleep(0.01)
        time.sleep(0.2)
        return {"ids": np.arange(100000)}
    (home / f"here-{sys.argv[2]}").touch()
    assert cached("ids", "k" * 32, make)["ids"].sum() == 4999950000
    """
)


def test_two_processes_at_once_make_it_once(tmp_path: Path) -> None:
    started = [subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), str(number)]) for number in range(2)]
    assert [process.wait(60) for process in started] == [0, 0]
    assert len(list(tmp_path.glob("made-*"))) == 1


def test_a_process_killed_while_it_makes_an_entry_leaves_the_work_to_the_next(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), "0"])
    while not (tmp_path / "made-0").exists():
        assert process.poll() is None
    process.kill()
    process.wait()
    (tmp_path / "here-9").touch()
    assert subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), "1"], check=False, timeout=60).returncode == 0
    assert (tmp_path / "made-1").exists()


def test_keys_of_files_follow_their_content_and_not_their_place(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("same")
    shutil.copy(one, other)
    os.utime(other, (1, 1))
    assert files_key({"name": one}) == files_key({"name": other})
    other.write_text("Same")
    assert files_key({"name": one}) != files_key({"name": other})
    assert files_key({"name": one}) != files_key({"renamed": one})


def test_large_files_are_told_apart_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_READ_WHOLE", 10)
    path = tmp_path / "large"
    path.write_text("x" * 20)
    before = files_key({"": path})
    assert files_key({"": path}) == before
    os.utime(path, (1, 1))
    assert files_key({"": path}) != before


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUTRANSFER_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("MUTRANSFER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mutransfer"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mutransfer"
