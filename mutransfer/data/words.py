"""Words as tokens: a vocabulary counted on the user's own training text, without any download."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from mutransfer.config.data.base import END, SPECIAL_TOKENS, UNKNOWN

# A word keeps its apostrophes and hyphens (as sacreBLEU's own tokenisation does); any other sign is a token.
_TOKENS = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]")
_SPACE_BEFORE = re.compile(r" (?=[.,!?;:)])")
UNKNOWN_WORD = "<unk>"


class WordVocabulary:
    """The most frequent words of a text, most frequent first; ids begin behind the special ones."""

    def __init__(self, texts: Iterable[str], *, size: int, lowercase: bool) -> None:
        self._lowercase = lowercase
        counts = Counter(word for text in texts for word in self._split(text))
        # Ties by the alphabet, so that the order of the file does not matter.
        ranked = sorted(counts, key=lambda word: (-counts[word], word))[: size - SPECIAL_TOKENS]
        self._words = ranked
        self._ids = {word: index for index, word in enumerate(ranked, start=SPECIAL_TOKENS)}
        self.known_share = sum(counts[word] for word in ranked) / max(1, sum(counts.values()))

    def __len__(self) -> int:
        return SPECIAL_TOKENS + len(self._words)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without a beginning or an end."""
        return [self._ids.get(word, UNKNOWN) for word in self._split(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Words up to the first end, with spaces between, but none before a full stop or its like."""
        words = []
        for token in ids:
            if token == END:
                break
            if token == UNKNOWN:
                words.append(UNKNOWN_WORD)
            elif SPECIAL_TOKENS <= token < len(self):
                words.append(self._words[token - SPECIAL_TOKENS])
        return _SPACE_BEFORE.sub("", " ".join(words))

    def _split(self, text: str) -> list[str]:
        return _TOKENS.findall(text.lower() if self._lowercase else text)
