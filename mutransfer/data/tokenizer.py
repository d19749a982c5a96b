"""Text to token ids and back: bytes, words, byte pairs trained here, or a file of the `tokenizers` library."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, Required

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from mutransfer.config.data.tokenizer import TokenizerSection
from mutransfer.data.cache import cache_key, cached, versions
from mutransfer.data.dataset import Array, need_extra, require_file
from mutransfer.errors import DataError
from mutransfer.files import parse_json, read_text

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
PAIR_SPECIALS = (PAD, BOS, EOS, UNK)
"""Special tokens of translation; padding is id 0 of words and bpe."""
# Special tokens of language modelling. A file brings its own.
_TEXT_SPECIALS = {"bytes": (), "words": (UNK, EOS), "bpe": (EOS,), "file": ()}
# Names of the special tokens in files.
_OTHER_NAMES = {
    PAD: ("[PAD]", "<|pad|>", "<|endoftext|>"),
    BOS: ("<s>", "[BOS]", "[CLS]", "<|startoftext|>", "<|begin_of_text|>", "<|endoftext|>"),
    EOS: ("</s>", "[EOS]", "[SEP]", "<|endoftext|>", "<|end_of_text|>"),
    UNK: ("[UNK]", "<|unk|>", "<|endoftext|>"),
}


class Tokenizer(ABC):
    """Converts text to ids (N,) of an unsigned type, and back."""

    vocab_size: int
    """All ids are smaller."""
    specials: dict[str, int]
    """Ids of the special tokens, by name (`PAD`, `BOS`, `EOS`, `UNK`)."""
    end: Array
    """Ids that end a document."""

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change if a text can get different ids."""
        return hashlib.blake2b(self.dump().encode(), digest_size=6).hexdigest()

    def encode(self, text: str) -> Array:
        """Ids of running text; `words` puts `<eos>` after each line."""
        return self.encode_texts([text])[0]

    def encode_texts(self, texts: Sequence[str]) -> list[Array]:
        """`encode` for many texts at once, which is faster."""
        return self.encode_lines(texts)

    @abstractmethod
    def encode_lines(self, lines: Sequence[str]) -> list[Array]:
        """Ids of each line, without special tokens."""

    @abstractmethod
    def decode(self, ids: Array) -> str:
        """The text of ids, without special tokens."""

    @abstractmethod
    def dump(self) -> str:
        """JSON from which `restore` makes the same tokenizer."""


def open_tokenizer(
    section: TokenizerSection,
    texts: Callable[[], Iterable[str]],
    *,
    specials: Sequence[str] | None = None,
    key: str | None = None,
) -> Tokenizer:
    """The tokenizer of a section, trained on `texts` if its kind is trained.

    Args:
        texts: returns the training text in pieces; called only if it is needed.
        specials: special tokens that must have ids; by default those of language modelling.
        key: cache key of `texts`. With it a trained tokenizer is kept in the cache.

    Raises:
        DataError: the file cannot be used or lacks a special token, or an extra is missing.
    """
    specials = _TEXT_SPECIALS[section.kind] if specials is None else specials
    if section.kind == "bytes":
        return Bytes(specials)
    if section.kind == "file":
        return _from_file(section, specials)
    train = _train_words if section.kind == "words" else _train_bpe
    if key is None:
        return restore(train(section, texts(), specials))
    library = versions(["tokenizers"]) if section.kind == "bpe" and need_library() else {}
    whole = cache_key("tokenizer", 1, section.model_dump(), list(specials), library, key)

    def make() -> dict[str, Array]:
        return {"json": np.frombuffer(train(section, texts(), specials).encode(), dtype=np.uint8)}

    return restore(cached("tokenizers", whole, make)["json"].tobytes().decode())


class _Dumped(TypedDict, total=False):
    kind: Required[Literal["bytes", "words", "library"]]
    specials: Required[list[str] | dict[str, int]]
    vocab_size: Annotated[int, Field(gt=0, lt=2**32)]
    words: list[str]
    json: str
    end: list[Annotated[int, Field(ge=0, lt=2**32)]]
    literal: bool


def restore(dumped: str, *, label: str = "tokenizer") -> Tokenizer:
    """The tokenizer that `Tokenizer.dump` wrote.

    Raises `DataError` if it needs the extra `hf` and that is missing, or `dumped` (of `label`) is damaged.
    """
    advice = "remove its folder and prepare the data again"
    data = parse_json(dumped, _Dumped, label=label, advice=advice, error=DataError)
    try:
        specials = data["specials"]
        if data["kind"] == "bytes":
            return Bytes(list(specials))
        if data["kind"] == "words":
            return Words(data["vocab_size"], data["words"], list(specials))
        if isinstance(specials, list):
            raise TypeError
        return Library(data["json"], data["vocab_size"], specials, data["end"], literal=data["literal"])
    except DataError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{label}: is damaged ({type(error).__name__}); {advice}") from error


class Bytes(Tokenizer):
    """UTF-8 bytes: ids below 256 are byte values, special tokens have the ids from 256 on."""

    def __init__(self, specials: Sequence[str]) -> None:
        self.specials = {name: 256 + index for index, name in enumerate(specials)}
        self.vocab_size = 256 + len(specials)
        self.end = np.array([ord("\n")], dtype=np.uint8)

    def encode_lines(self, lines: Sequence[str]) -> list[Array]:  # noqa: D102
        return [np.frombuffer(line.encode(errors="surrogateescape"), dtype=np.uint8) for line in lines]

    def decode(self, ids: Array) -> str:  # noqa: D102
        ids = np.asarray(ids)
        return ids[ids < 256].astype(np.uint8).tobytes().decode(errors="replace")

    def dump(self) -> str:  # noqa: D102
        return json.dumps({"kind": "bytes", "specials": list(self.specials)})


class Words(Tokenizer):
    """Words between white space, as in WikiText-2: `<eos>` after each line, `<unk>` for unknown words."""

    def __init__(self, vocab_size: int, words: Sequence[str], specials: Sequence[str]) -> None:
        self.vocab_size = vocab_size
        self._words = list(words)
        self._ids = {word: index for index, word in enumerate(words)}
        self.specials = {name: self._ids[name] for name in specials}
        self._dtype = smallest_type(vocab_size)
        self.end = np.empty(0, dtype=self._dtype)  # every line ends with EOS already

    def encode_texts(self, texts: Sequence[str]) -> list[Array]:  # noqa: D102
        found = []
        for text in texts:
            lines = text.removesuffix("\n").split("\n")  # the last newline ends a line and starts no new one
            found.append(self._look_up([word for line in lines for word in (*line.split(), EOS)]))
        return found

    def encode_lines(self, lines: Sequence[str]) -> list[Array]:  # noqa: D102
        return [self._look_up(line.split()) for line in lines]

    def decode(self, ids: Array) -> str:  # noqa: D102
        left_out = {self.specials.get(PAD), self.specials.get(BOS)}
        # A model can produce ids that are below vocab_size but stand for no known token.
        known = [index for index in ids if index not in left_out and index < len(self._words)]
        words = ["\n" if self._words[index] == EOS else self._words[index] for index in known]
        return " ".join(words).replace(" \n ", "\n").replace(" \n", "\n")

    def dump(self) -> str:  # noqa: D102
        data = {"kind": "words", "vocab_size": self.vocab_size, "specials": list(self.specials)}
        return json.dumps(data | {"words": self._words}, ensure_ascii=False)

    def _look_up(self, words: Sequence[str]) -> Array:
        known, unknown = self._ids.get, self._ids[UNK]
        return np.fromiter((known(word, unknown) for word in words), dtype=self._dtype, count=len(words))


class Library(Tokenizer):
    """A tokenizer of the `tokenizers` library. Padding and truncation in its file are ignored."""

    def __init__(
        self, content: str, vocab_size: int, specials: dict[str, int], end: Sequence[int], *, literal: bool
    ) -> None:
        self.content, self.vocab_size, self.specials = content, vocab_size, dict(specials)
        self._literal = literal
        self._made = need_library().Tokenizer.from_str(content)
        self._made.no_padding()
        self._made.no_truncation()
        # In a text, the names of our own special tokens are plain text.
        self._made.encode_special_tokens = literal
        self._dtype = smallest_type(vocab_size)
        self.end = np.array(end, dtype=self._dtype)

    def encode_lines(self, lines: Sequence[str]) -> list[Array]:  # noqa: D102
        batch = self._made.encode_batch_fast(list(lines), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self._dtype) for encoding in batch]

    def decode(self, ids: Array) -> str:  # noqa: D102
        return str(self._made.decode([int(index) for index in ids], skip_special_tokens=True))

    def dump(self) -> str:  # noqa: D102
        data = {
            "kind": "library", "vocab_size": self.vocab_size, "specials": self.specials, "end": self.end.tolist(),
            "literal": self._literal, "json": self.content,
        }  # fmt: skip
        return json.dumps(data)


def smallest_type(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    """The smallest type that holds all ids: uint16 or uint32."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def need_library() -> Any:
    """The `tokenizers` library; raises `DataError` if it is not installed."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # otherwise it warns in forked processes
    return need_extra("tokenizers", "hf", "", needer="this tokenizer")


def _train_words(section: TokenizerSection, texts: Iterable[str], specials: Sequence[str]) -> str:
    """The most frequent words. Equally frequent ones are in alphabetical order."""
    names = [*specials, *([] if UNK in specials else [UNK])]
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.split())
    for name in names:
        counts.pop(name, None)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    size = section.ids()
    return Words(size, [*names, *ranked[: size - len(names)]], specials).dump()


def _train_bpe(section: TokenizerSection, texts: Iterable[str], specials: Sequence[str]) -> str:
    """Byte pairs as in GPT-2: every byte is a token, its pattern splits words, and no text is unknown."""
    library = need_library()
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=section.ids(),
        special_tokens=list(specials),
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    ids = {name: made.token_to_id(name) for name in specials}
    end = [ids[EOS]] if EOS in ids else []
    return Library(made.to_str(), section.ids(), ids, end, literal=True).dump()


def _from_file(section: TokenizerSection, specials: Sequence[str]) -> Tokenizer:
    path = require_file(section.file or "")
    library = need_library()
    try:
        content = read_text(path, error=DataError)
        made = library.Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path}: is not a tokenizer.json of the tokenizers library: {error}") from None
    vocabulary = made.get_vocab(with_added_tokens=True)
    size = max(vocabulary.values()) + 1
    if size > section.ids():
        raise DataError(f"{path}: has {size} token ids, but data.tokenizer.vocab_size is {section.ids()}")
    ids = {}
    for name in specials:
        known = next((other for other in (name, *_OTHER_NAMES[name]) if other in vocabulary), None)
        if known is None:
            raise DataError(f"{path}: has no token for {name}: none of {', '.join((name, *_OTHER_NAMES[name]))}")
        ids[name] = vocabulary[known]
    if section.eos is None:
        end = made.encode("\n", add_special_tokens=False).ids
    elif section.eos in vocabulary:
        end = [vocabulary[section.eos]]
    else:
        raise DataError(f"{path}: has no token {section.eos!r}, which data.tokenizer.eos names")
    return Library(content, section.ids(), ids, end, literal=False)
