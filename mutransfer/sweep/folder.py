"""The folder of one sweep: the one place that knows the names of the files in it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from typing_extensions import TypedDict

from mutransfer.errors import UsageError
from mutransfer.files import is_held, read_json, sole_folder, write_json
from mutransfer.training.folder import TrainFolder


class _Holder(TypedDict):
    pid: int
    host: str


class SweepFolder:
    """Files of one sweep, and of the targets made from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.own_study = root / "study.db"
        self.study_link = root / "study.json"
        self.trials = root / "trials"
        self.table = root / "trials.csv"
        self.best = root / "best.yaml"
        self.targets = root / "targets"
        self._lock = root / ".lock"
        self._holder = root / ".lock.holder"

    @property
    def study(self) -> Path:
        """The file of the study: its own SQLite file, or the link to a study in a database."""
        return self.study_link if self.study_link.exists() else self.own_study

    @property
    def changed(self) -> float:
        """When the sweep last wrote, in seconds since the epoch."""

        def modified(file: Path) -> float:
            try:
                return file.stat().st_mtime
            except FileNotFoundError:
                return 0.0

        # SQLite writes to the file behind -wal for as long as a sweep runs; trials.csv comes at the end of each call.
        files = (self.study, self.own_study.with_name("study.db-wal"), self.table)
        return max(map(modified, files))

    @property
    def exists(self) -> bool:
        """Whether a sweep has begun here."""
        try:
            return self.study.exists()
        except OSError:  # a name too long for the disk
            return False

    def trial(self, number: int, repeat: int = 0, stage: int = 1) -> Path:
        """Folder of one trial; its runs in later stages and with further seeds lie beside it."""
        further = f"-repeat{repeat}" if repeat else f"-stage{stage}" if stage > 1 else ""
        return self.trials / f"{number:05d}{further}"

    def target(self, name: str) -> TrainFolder:
        """Folder of one target, and of its training run."""
        return TrainFolder(self.targets / name)

    @contextmanager
    def sole_coordinator(self) -> Iterator[None]:
        """Hold the folder's lock and say which process holds it. UsageError if another does, or it is not writable."""
        begun = (self._holder.name, self.config.name)
        with sole_folder(
            self.root, self._lock, lambda: f"{self.root}: is being swept by {self._describe_holder()}", begun=begun
        ):
            write_json(self._holder, {"pid": os.getpid(), "host": socket.gethostname()})
            try:
                yield
            finally:
                with suppress(OSError):  # the folder may have become read-only; the lock is what counts
                    self._holder.unlink(missing_ok=True)

    @property
    def is_running(self) -> bool:
        """Whether a coordinator holds the folder now."""
        return is_held(self._lock)

    def _describe_holder(self) -> str:
        try:
            holder = read_json(self._holder, _Holder, advice="")
            return f"process {holder['pid']} on {holder['host']}"
        except UsageError:
            return "another process"


def find_sweeps(runs: Path) -> list[SweepFolder]:
    """Sweeps below a runs folder, newest first. UsageError if it is a file."""
    if runs.is_file():
        raise UsageError(f"{runs}: is a file, but has to be a folder")
    found = [SweepFolder(root) for root in {path.parent for path in runs.glob("*/study.*")}]
    return sorted((folder for folder in found if folder.exists), key=lambda folder: folder.changed, reverse=True)


def resolve_sweep(name: str | None, runs: Path) -> SweepFolder:
    """The sweep of that name in the runs folder, or at that path; a UsageError lists the existing ones."""
    if name is not None:
        for candidate in (SweepFolder(runs / name), SweepFolder(Path(name))):
            if candidate.exists:
                return candidate
    known = [folder.root.name for folder in find_sweeps(runs)]
    available = f"there are {', '.join(known)}" if known else "there are none yet: mutransfer sweep CONFIG makes one"
    raise UsageError(f"no sweep {name or ''} in {runs}; {available}".replace("  ", " "))
