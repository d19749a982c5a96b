"""The lease on a study in a shared database: one coordinator at a time, and a late writer is refused.

The run folder's lock does not cover a copy of the folder, or another machine. So the study carries an attribute
that names its coordinator and counts its transactions. Every transaction moves the count on, and only from the value
that this coordinator wrote last: where another one has taken over, the first transaction of the old one fails, whole.
No clocks are compared. A process that finds a coordinator named there watches for a while whether its count moves.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from typing import Any, Required

from sqlalchemy import Connection
from typing_extensions import TypedDict

from mutransfer.errors import Interrupted, UsageError
from mutransfer.executors.base import Stop
from mutransfer.files import parse_json
from mutransfer.sweep.database import Database
from mutransfer.sweep.place import Place
from mutransfer.sweep.tables import read_attribute_text, swap_attribute

KEY = "coordinator"
FREE: dict[str, Any] = {"who": None}
"""The attribute of a study without a coordinator."""
BEAT_SECONDS = 5.0
"""A coordinator with nothing to write moves its count this often."""
WATCH_SECONDS = 30.0
"""A coordinator whose count has not moved for this long counts as dead."""
_LOOK_SECONDS = 0.5


class _Coordinator(TypedDict, total=False):
    who: Required[str | None]
    home: str


class Lease:
    """The right to write to one study of a shared database."""

    def __init__(self, place: Place, database: Database, study: int) -> None:
        self._place, self._database, self._study = place, database, study
        folder = place.file.parent.resolve()
        # A copied folder has another inode, a folder on another machine another host.
        self._me = {
            "who": f"process {os.getpid()} on {socket.gethostname()}, in {folder}",
            "home": f"{socket.gethostname()}:{folder}:{folder.stat().st_ino}",
            "born": secrets.token_hex(8),  # not the time, which may repeat
        }
        self._count = 0
        self._renewed = 0.0

    def claim(self, should_stop: Stop) -> None:
        """Become the study's coordinator; UsageError if another one is at work, Interrupted if stopped while watching.

        A coordinator named there that ran in this very folder is dead: its successor holds the folder's lock.
        """
        found = self._read()
        holder = self._holder(found)
        if holder["who"] is not None and holder.get("home") != self._me["home"]:
            until = time.monotonic() + WATCH_SECONDS
            while time.monotonic() < until:
                if should_stop():
                    raise Interrupted(f"{self._place}: stopped before the sweep began; the same command continues")
                time.sleep(_LOOK_SECONDS)
                if self._read() != found:
                    raise self._taken()
        self._database.write(lambda connection: self._swap(connection, found))
        self._renewed = time.monotonic()

    def renew(self, connection: Connection) -> bool:
        """Move the count on, in a transaction of a write; UsageError where another coordinator has taken over.

        False when an earlier attempt of this very write was committed after all, so that it must not be repeated.
        """
        if swap_attribute(connection, self._study, KEY, self._text(self._count), self._text(self._count + 1)):
            return True
        if read_attribute_text(connection, self._study, KEY) == self._text(self._count + 1):
            return False
        raise self._taken()

    def renewed(self) -> None:
        """Call it when the write is done."""
        self._count += 1
        self._renewed = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether nothing has been written for a while."""
        return time.monotonic() - self._renewed > BEAT_SECONDS

    def release(self, connection: Connection) -> None:
        """Release the lease, so that the next coordinator can begin at once."""
        swap_attribute(connection, self._study, KEY, self._text(self._count), json.dumps(FREE))

    def _swap(self, connection: Connection, found: str) -> None:
        if not swap_attribute(connection, self._study, KEY, found, self._text(0)) and self._read() != self._text(0):
            raise self._taken()

    def _read(self) -> str:
        found = self._database.read(lambda connection: read_attribute_text(connection, self._study, KEY))
        if found is None:
            raise self._database.damaged(f"it has no attribute {KEY}")
        return found

    def _taken(self) -> UsageError:
        holder = self._holder(self._read())["who"] or "another process"
        return UsageError(f"{self._place}: is being swept by {holder}; a study has one coordinator at a time")

    def _holder(self, found: str) -> _Coordinator:
        return parse_json(found, _Coordinator, label=f"{self._place}, attribute {KEY}", advice="restore a backup")

    def _text(self, count: int) -> str:
        return json.dumps({**self._me, "count": count})
