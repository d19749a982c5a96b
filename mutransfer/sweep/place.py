"""The place of a study: the run folder's own SQLite file, or a database of the user's choice."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError
from typing_extensions import TypedDict

from mutransfer.errors import UsageError
from mutransfer.files import read_json
from mutransfer.shown import ENVIRONMENT


class _Link(TypedDict):
    study: str
    storage: str


@dataclass(frozen=True)
class Place:
    """A study in a database."""

    file: Path
    """Its file in the run folder: the SQLite file itself, or the link to the database."""
    study: str = "mutransfer"
    """Its name in the database."""
    storage: str | None = None
    """`search.storage` as the config writes it, `${NAME}` not filled in; None for the run folder's own file."""

    def __str__(self) -> str:
        return str(self.file) if self.storage is None else f"{self.file} ({self.storage})"

    @property
    def url(self) -> URL:
        """With every `${NAME}` filled in; it must not be shown. UsageError if it is not a URL, or a NAME is not set."""
        if self.storage is None:
            return URL.create("sqlite", database=str(self.file.resolve()))
        try:
            if ENVIRONMENT.fullmatch(self.storage):
                return make_url(_filled(self.storage))
            url = make_url(self.storage)
        except (ArgumentError, ValueError):  # a port that is not a number
            raise UsageError(
                f"search.storage: {self.storage} is not a storage URL; write it as postgresql+psycopg://USER:${{PASSWORD}}"
                "@HOST/DATABASE or sqlite:////PATH"
            ) from None
        names = ("username", "password", "host", "database")
        filled: dict[str, Any] = {name: _filled(text) for name in names if (text := getattr(url, name)) is not None}
        return url.set(**filled, query={name: _filled(str(value)) for name, value in url.query.items()})

    @property
    def sqlite_file(self) -> Path | None:
        """The file, where the database is SQLite."""
        url = self.url
        if url.get_backend_name() != "sqlite":
            return None
        if not url.database or url.database == ":memory:":
            raise UsageError(f"search.storage: {self.storage} keeps nothing; give it a path: sqlite:////PATH")
        return Path(url.database)

    @property
    def secrets(self) -> list[str]:
        """Texts that no message may contain."""
        names = ENVIRONMENT.findall(self.storage or "")
        return [value for name in names if (value := os.environ.get(name))]


def read_place(file: Path) -> Place:
    """The place of the study behind a file of a run folder; UsageError if that link is damaged."""
    if file.suffix != ".json":
        return Place(file)
    link = read_json(file, _Link, advice="restore it from a backup, or move its folder away to start over")
    return Place(file, link["study"], link["storage"])


def _filled(text: str) -> str:
    """With every `${NAME}` replaced by environment variable NAME."""

    def value(found: re.Match[str]) -> str:
        name = found.group(1)
        if name not in os.environ:
            raise UsageError(f"search.storage: environment variable {name} is not set")
        return os.environ[name]

    return ENVIRONMENT.sub(value, text)
