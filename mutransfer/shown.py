"""What may be shown of what a user wrote: no password, no character that a terminal obeys, no megabyte."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_plus

HIDDEN = "***"
ENVIRONMENT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""`${NAME}`: an environment variable in the place of a password."""
_MOST_OF_VALUE = 100
_MOST_OF_LINE = 2000
_MOST_LINES = 40
_MOST_URLS = 50

_COLON = r"(?::|%3[Aa]))(?!\d{0,5}(?![^\s@]*@)(?:[^\w%]|$))"  # but not that of a port


def _logins(slashes: str) -> tuple[re.Pattern[str], ...]:
    user = rf"(?P<head>{slashes}(?!\[[0-9a-fA-F:.%]+\])"
    # A password ends before the last @ of the word, or, where it has spaces in it, before the first @ after them.
    ends = (r"[^\s:]*?", r"\S*"), (r"[^\s:/?#]*?", r"(?:(?!://)[^@])*(?:@[^\s@]*)*")
    return tuple(
        re.compile(rf"{user}{name}{_COLON}(?P<secret>{ENVIRONMENT.pattern}(?=@)|{password}(?=@))")
        for name, password in ends
    )


_LOGINS = (
    *_logins("://"),
    # The URL may have been cut off before its @.
    re.compile(rf"(?P<head>://[^\s:/?#@\[]*{_COLON}(?!\S*@)(?P<secret>[^\s/'\",;][^\s'\",;]*)"),
    # A user without a password is a token where a web site asks for it.
    re.compile(r"(?P<head>https?://)(?P<secret>[^\s:/?#@]+)(?=@)"),
)
_LOGINS_OF_PATHS = _logins(r"(?<=\w\w):/")
_QUERY = re.compile(r"(?<=\w\w):/[^\s?#]*[?#]\S*")
_OPTION = re.compile(r"(?P<head>(?<=[?&;#])[^\s=&;#?]+=)(?P<secret>[^\s&;#]+)")
# Also inside the value of an option, where drivers take a text of further options.
_SECRET = re.compile(
    r"(?:pass|pwd|secret|token|key|auth|cred|signature|jwt|session)[\w.-]*=|(?<![a-z])(?:pw|sig)=", re.IGNORECASE
)
_NO_SECRET = re.compile(r"(?:passfile|ssl[_-]?key|key_?file|\w*_path)=", re.IGNORECASE)
# What a terminal obeys or cannot show: controls, marks that turn the direction of text, bytes that are not UTF-8.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def masked(text: str, *, paths: bool = False) -> str:
    """The text with `***` in place of every password and token in a URL; `${NAME}` stays.

    Args:
        paths: also in URLs that were taken for a path, in which one slash is left of two.
    """
    if ":/" not in text:
        return text
    return "\n".join(_masked_line(line, _LOGINS_OF_PATHS + _LOGINS if paths else _LOGINS) for line in text.split("\n"))


def _masked_line(line: str, patterns: Iterable[re.Pattern[str]]) -> str:
    if line.count(":/") > _MOST_URLS:  # the patterns would take minutes
        return line[: line.index(":/") + 2] + HIDDEN
    for pattern in patterns:
        line = pattern.sub(_hidden, line)
    return _QUERY.sub(lambda url: _OPTION.sub(_hidden_option, url[0]), line)


def _hidden(found: re.Match[str]) -> str:
    return found[0] if ENVIRONMENT.fullmatch(found["secret"]) else found["head"] + HIDDEN


def _hidden_option(found: re.Match[str]) -> str:
    option = unquote_plus(unquote_plus(found[0]))
    return _hidden(found) if _SECRET.search(option) and not _NO_SECRET.match(option) else found[0]


def masked_data(data: Any) -> Any:
    """Plain data with every text in it masked."""
    if isinstance(data, dict):
        return {masked_data(key): masked_data(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [masked_data(one) for one in data]
    return masked(data) if isinstance(data, str) else data


def quoted(value: Any) -> str:
    """A value as Python writes it, masked, without the end of a long one."""
    return _shortened(repr(value), _MOST_OF_VALUE)


def clean(text: str) -> str:
    """Text that a terminal and a log can take: masked, control characters escaped."""
    return _UNSHOWN.sub(lambda found: ascii(found[0])[1:-1], masked(text, paths=True))


def plain(message: str) -> str:
    """A message of bounded length that a terminal and a log can take."""
    lines = message.split("\n")
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"… and {len(lines) - _MOST_LINES} more lines"]
    return clean("\n".join(_shortened(line, _MOST_OF_LINE) for line in lines))


def _shortened(text: str, most: int) -> str:
    shown = masked(text[: 10 * most], paths=True)  # a secret may be longer than what is left to show
    return shown if max(len(text), len(shown)) <= most else f"{shown[:most]} … ({len(text)} characters)"
