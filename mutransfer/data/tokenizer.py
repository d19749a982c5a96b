"""Text to token ids and back: bytes, words, byte pairs trained here, or a file of the `tokenizers` library."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mutransfer.config.data.tokenizer import TokenizerSection
from mutransfer.data.cache import cache_key, cached, versions
from mutransfer.data.dataset import Array, need_extra, require_file
from mutransfer.errors import DataError

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
PAIR_SPECIALS = (PAD, BOS, EOS, UNK)
"""Special tokens of translation: padding is id 0 of words and bpe."""
# Of language modelling; a file has what it has.
_TEXT_SPECIALS = {"bytes": (), "words": (UNK, EOS), "bpe": (EOS,), "file": ()}
# What files call them.
_OTHER_NAMES = {
    PAD: ("[PAD]", "<|pad|>", "<|endoftext|>"),
    BOS: ("<s>", "[BOS]", "[CLS]", "<|startoftext|>", "<|begin_of_text|>", "<|endoftext|>"),
    EOS: ("</s>", "[EOS]", "[SEP]", "<|endoftext|>", "<|end_of_text|>"),
    UNK: ("[UNK]", "<|unk|>", "<|endoftext|>"),
}


class Tokenizer(ABC):
    """Text to ids (N,) of an unsigned type and back."""

    vocab_size: int
    """Every id is below it."""
    specials: dict[str, int]
    """Ids of the special tokens asked for, by their names here (`PAD`, `BOS`, `EOS`, `UNK`)."""
    end: Array
    """Ids that close a document."""

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with any id that a text may get."""
        return hashlib.blake2b(self.dump().encode(), digest_size=6).hexdigest()

    def encode(self, text: str) -> Array:
        """Ids of running text; `words` puts `<eos>` after each line."""
        return self.encode_texts([text])[0]

    def encode_texts(self, texts: Sequence[str]) -> list[Array]:
        """`encode` of each, faster than one by one."""
        return self.encode_lines(texts)

    @abstractmethod
    def encode_lines(self, lines: Sequence[str]) -> list[Array]:
        """Ids of each line by itself; no special tokens are added."""

    @abstractmethod
    def decode(self, ids: Array) -> str:
        """Text of ids; special tokens that are no part of it are left out."""

    @abstractmethod
    def dump(self) -> str:
        """JSON from which `restore` makes it again."""


def open_tokenizer(
    section: TokenizerSection,
    texts: Callable[[], Iterable[str]],
    *,
    specials: Sequence[str] | None = None,
    key: str | None = None,
) -> Tokenizer:
    """The tokenizer of a section, trained on `texts` where its kind is trained.

    Args:
        texts: gives the training text, in pieces; called only if it is needed.
        specials: special tokens that have to have ids; those of language modelling when left out.
        key: what `texts` depends on (`cache_key`, `files_key`): a trained tokenizer is then kept in the cache.

    Raises:
        DataError: the file cannot be used, or lacks a special token, or an extra is missing.
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


def restore(dumped: str) -> Tokenizer:
    """The tokenizer that `Tokenizer.dump` described.

    Raises:
        DataError: the extra `hf` is missing.
    """
    data = json.loads(dumped)
    if data["kind"] == "bytes":
        return Bytes(data["specials"])
    if data["kind"] == "words":
        return Words(data["vocab_size"], data["words"], data["specials"])
    return Library(data["json"], data["vocab_size"], data["specials"], data["end"], literal=data["literal"])


class Bytes(Tokenizer):
    """UTF-8: ids below 256 are byte values, special tokens come after them."""

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
    """Words between white space, as WikiText-2 has them: `<eos>` after each line, `<unk>` for what is not known."""

    def __init__(self, vocab_size: int, words: Sequence[str], specials: Sequence[str]) -> None:
        self.vocab_size = vocab_size
        self._words = list(words)
        self._ids = {word: index for index, word in enumerate(words)}
        self.specials = {name: self._ids[name] for name in specials}
        self._dtype = smallest_type(vocab_size)
        self.end = np.empty(0, dtype=self._dtype)  # every line has one already

    def encode_texts(self, texts: Sequence[str]) -> list[Array]:  # noqa: D102
        return [self._encode_text(text) for text in texts]

    def _encode_text(self, text: str) -> Array:
        lines = text.split("\n")
        if len(lines) > 1 and not lines[-1]:
            lines.pop()  # a newline ends a line and begins none
        return self._look_up([word for line in lines for word in (*line.split(), EOS)])

    def encode_lines(self, lines: Sequence[str]) -> list[Array]:  # noqa: D102
        return [self._look_up(line.split()) for line in lines]

    def decode(self, ids: Array) -> str:  # noqa: D102
        left_out = {self.specials.get(PAD), self.specials.get(BOS)}
        # A model may give ids of the vocabulary that no word has come to fill.
        known = [index for index in ids if index not in left_out and index < len(self._words)]
        words = ["\n" if self._words[index] == EOS else self._words[index] for index in known]
        return " ".join(words).replace(" \n ", "\n").replace(" \n", "\n")

    def dump(self) -> str:  # noqa: D102
        data = {
            "kind": "words", "vocab_size": self.vocab_size, "specials": list(self.specials), "words": self._words,
        }  # fmt: skip
        return json.dumps(data, ensure_ascii=False)

    def _look_up(self, words: Sequence[str]) -> Array:
        known, unknown = self._ids.get, self._ids[UNK]
        return np.fromiter((known(word, unknown) for word in words), dtype=self._dtype, count=len(words))


class Library(Tokenizer):
    """A tokenizer of the `tokenizers` library; what its file says of padding and truncation is left aside."""

    def __init__(
        self, content: str, vocab_size: int, specials: dict[str, int], end: Sequence[int], *, literal: bool
    ) -> None:
        self.content, self.vocab_size, self.specials = content, vocab_size, dict(specials)
        self._literal = literal
        self._made = need_library().Tokenizer.from_str(content)
        self._made.no_padding()
        self._made.no_truncation()
        # The names of our own special tokens are plain text where users write them.
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
    """The type of one id: two bytes where they do, else four."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def need_library() -> Any:
    """The `tokenizers` library.

    Raises:
        DataError: it is not installed.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else it warns wherever a process was forked
    return need_extra("tokenizers", "hf", "", needer="this tokenizer")


def _train_words(section: TokenizerSection, texts: Iterable[str], specials: Sequence[str]) -> str:
    """The most frequent words; among equally frequent ones the alphabet decides."""
    names = [*specials, *([] if UNK in specials else [UNK])]
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.split())
    for name in names:
        counts.pop(name, None)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    size = section.ids()
    words = [*names, *ranked[: size - len(names)]]
    return Words(size, words, specials).dump()


def _train_bpe(section: TokenizerSection, texts: Iterable[str], specials: Sequence[str]) -> str:
    """Byte pairs as GPT-2 has them: every byte a token, words split by its pattern, no unknown text."""
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
        content = path.read_text(encoding="utf-8")
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
