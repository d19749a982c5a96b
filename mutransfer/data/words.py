"""Puts spaces between words and punctuation for the tokenizer `words`, and removes them again."""

from __future__ import annotations

import re

# A word keeps its apostrophes and hyphens, as in sacreBLEU's tokenisation. Every other sign is a token.
_WORDS = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]")
_SPACE_BEFORE = re.compile(r" (?=[.,!?;:)])")


def spaced(text: str) -> str:
    """`Zwei Männer, im Freien.` → `Zwei Männer , im Freien .`"""
    return " ".join(_WORDS.findall(text))


def unspaced(text: str) -> str:
    """Remove the space before closing punctuation."""
    return _SPACE_BEFORE.sub("", text)
