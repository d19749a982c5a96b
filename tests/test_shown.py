"""What messages repeat: no secret of a URL, wherever it stands in it, no control character, no megabyte."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, make_url

from mutransfer.errors import UsageError
from mutransfer.shown import masked, masked_data, plain, quoted

S = "S3CRET"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{S}@host/db",
        f"postgresql+psycopg://me@srv:{S}@host:5432/db",
        f"postgresql://me:{S}@word@host/db",
        f"postgresql://me:a@{S}@host/db",
        f"postgresql://me:a/{S}@host/db",
        f"postgresql://me:a?{S}@host/db",
        f"postgresql://me:a#{S}@host/db",
        f"postgresql://me:a {S} b@host/db",
        f"postgresql://me:12{S}@host/db",
        f"postgresql://me:12/{S}@host/db",
        f"postgresql://me:x{S}@[::1]:5432/db",
        f"postgresql://me%3A{S}@host/db",
        f"postgresql://a/b:{S}@host/db",
        f"redis://:{S}@host",
        f"postgresql://me:pre${{X}}{S}@host/db",
        f"postgresql://me:{S}",
        f"postgresql://me:{S}-and-cut-off …",
        f"https://{S}@github.com/me/repo",
        f"git+https://{S}@github.com/me/repo",
        f"postgresql://host/db?user=me&password={S}",
        f"postgresql://host/db?PASSWORD={S}",
        f"postgresql://host/db?p%61ssword={S}",
        f"postgresql://host/db?sslpassword={S}&sslmode=require",
        f"postgresql://host/db?sslmode=require;passwd={S}",
        f"https://host/file?token={S}",
        f"https://host/file#access_token={S}",
        f"https://host/file?api_key={S}",
        f"https://host/file?X-Amz-Signature={S}",
        f"https://host/file?sig={S}",
        f"mysql://host/db?pw={S}",
        f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BUID%3Dme%3BPWD%3D{S}",
        f"postgresql://${{USER}}:{S}@host/db",
    ],
)
@pytest.mark.parametrize(
    "around", ["{}", "'{}'", "c.yaml:1: x: {}: is not one of a, b", '{{"a": "{}"}}', "{}\nand\n{}"]
)
def test_a_secret_in_a_url_is_never_shown(url, around):
    text = around.format(url, url)
    assert S not in masked(text)
    assert S not in plain(text)
    assert S not in quoted(text)
    assert S not in str(UsageError(text))
    assert S not in str(masked_data({"a": [text], text: 1}))
    assert masked(masked(text)) == masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg://me:${PASSWORD}@host/db",
        "postgresql+psycopg://me@srv:${PASSWORD}@host:5432/db?sslmode=require&options=a@b",
        "postgresql://host:5432/db", "postgresql://[::1]:5432/db", "postgresql://host:5432: connection refused",
        "postgresql://me@host/db", "postgresql://host/db?password=${PASSWORD}",
        "postgresql://host/db?passfile=/a&sslkey=/b&keepalives=1&keepalives_idle=10", "sqlite:////data/study.db",
        "sqlite:///C:/data/study.db", "see https://example.org/a/b?page=2#part, or write to me@example.org",
        "http://localhost:8080 and then me@example.org", "https://host/a@b", "a:b@c", "${STORAGE}",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert masked(text) == text


@pytest.mark.parametrize("url", [f"postgresql://me@srv:{S}@h/d", f"redis://:{S}@h", f"https://h/x?token={S}"])
def test_a_url_that_was_taken_for_a_path_is_masked_in_messages(url):
    assert S not in plain(f"{Path(url)}: no such file")
    assert S not in quoted(str(Path("runs") / url))


def test_a_list_of_folders_is_not_taken_for_a_url():
    assert masked("/usr/bin:/bin:x@y") == "/usr/bin:/bin:x@y"
    assert plain("PATH=/usr/bin:/bin:x") == "PATH=/usr/bin:/bin:x"


WORD = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["C", "Z"]), min_size=1)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(WORD, WORD, WORD.map(lambda text: f"{S}{text}"), st.sampled_from(["password", "sslpassword", "token"]))
def test_what_sqlalchemy_takes_for_a_password_is_masked(user, database, password, option):
    login = URL.create("postgresql", user, password, "host", 5432, database).render_as_string(hide_password=False)
    asked = URL.create("postgresql", user, None, "host", 5432, database, {option: password})
    raw = f"postgresql://{user}:{password}@host/{database}"
    for text in (login, asked.render_as_string(), raw):
        assert S not in masked(text)
    assert make_url(masked(login)).host == "host"


@pytest.mark.parametrize(
    ("character", "shown"),
    [("\x1b[31m", "\\x1b[31m"), ("\x07", "\\x07"), ("\x9b", "\\x9b"), ("\u202e", "\\u202e"), ("\udcff", "\\udcff"),
     ("\r", "\\r")],
)  # fmt: skip
def test_a_message_has_no_control_characters(character, shown):
    assert str(UsageError(f"a{character}b\nµ → η")) == f"a{shown}b\nµ → η"


def test_a_message_repeats_no_megabyte():
    assert len(str(UsageError(f"a: {'x' * 10**6}: is wrong"))) < 2100
    assert str(UsageError("a\n" * 10**5)).endswith("… and 99961 more lines")
    assert len(quoted("x" * 10**6)) < 130
    assert len(quoted({"a": ["x" * 10**6]})) < 130


@pytest.mark.parametrize("piece", ["://a:", "://a:b@", "://", "x", "http://a?b=c&", "://a 1@"])
def test_no_text_takes_long_to_mask(piece):
    began = time.monotonic()
    text = masked(piece * (10**6 // len(piece)) + f"postgresql://me:{S}@host")
    assert S not in text
    assert time.monotonic() - began < 5


def test_a_long_url_is_masked_before_it_is_cut():
    assert S not in quoted(f"{'x' * 50} postgresql://me:{S}{'y' * 10**5}@host/db")
