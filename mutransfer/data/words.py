"""Running text with spaces between words and punctuation, which a tokenizer of words needs, and back."""

from __future__ import annotations

import re

# A word keeps its apostrophes and hyphens (as sacreBLEU's own tokenisation does); any other sign is one by itself.
_WORDS = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]")
_SPACE_BEFORE = re.compile(r" (?=[.,!?;:)])")


def spaced(text: str) -> str:
    """`Zwei Männer, im Freien.` → `Zwei Männer , im Freien .`"""
    return " ".join(_WORDS.findall(text))


def unspaced(text: str) -> str:
    """No space before a full stop or its like."""
    return _SPACE_BEFORE.sub("", text)
