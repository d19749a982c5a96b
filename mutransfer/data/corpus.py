"""Turns documents into one sequence of token ids, and keeps the ids in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np

from mutransfer.config.data import HuggingFaceTextSection, TextSection, TokenizerSection
from mutransfer.data.cache import cache_key, cached, checksum, versions
from mutransfer.data.dataset import Array, TokenDataset, require_file
from mutransfer.data.tokenizer import Tokenizer, need_library, open_tokenizer, smallest_type
from mutransfer.errors import DataError
from mutransfer.files import MOST_OF_DATA, read_bytes

# In characters. Longer documents are cut at the end of a line, so that threads share the work. Batches bound memory.
_BLOCK = 1 << 18
_BATCH = 1 << 23


def token_dataset(
    section: TextSection | HuggingFaceTextSection,
    training: Callable[[], Iterable[str]],
    validation: Callable[[], Iterable[str]] | None,
    *,
    key: str,
    label: str,
) -> TokenDataset:
    """The data set of a section with a tokenizer. Its ids come from the cache, or are made and stored there.

    A tokenizer is trained on the training part only. Without `validation` the tail of the text is held out. The cut is
    at the end of a line, or of a document if no line ends there.

    Args:
        training: returns the training documents; called only if the ids are not in the cache.
        validation: returns the validation documents, if they are separate.
        key: cache key of the documents.

    Raises:
        DataError: a document cannot be read, or the tokenizer cannot be used.
    """

    def make() -> dict[str, Array]:
        kept = list(training())
        if validation is None:
            kept, held_out = split_documents(kept, section.validation_fraction)
        else:
            held_out = list(validation())
        tokenizer = open_tokenizer(
            section.tokenizer, lambda: kept, key=cache_key(key, section.validation_fraction, validation is None)
        )
        parts = [_ids(tokenizer, documents) for documents in (kept, held_out)]
        return {"ids": np.concatenate(parts), "held_out": np.array([len(parts[1])])}

    fraction = section.validation_fraction if validation is None else None
    found = cached("ids", cache_key("ids", 1, key, fraction, tokenizer_key(section.tokenizer)), make)
    held_out = int(found["held_out"][0])
    return TokenDataset(found["ids"], section, vocab_size=section.spec.vocab_size, label=label, held_out=held_out)


def tokenizer_key(section: TokenizerSection) -> str:
    """Cache key of a tokenizer: its settings, the content of its file, the version of its library."""
    library = versions(["tokenizers"]) if section.kind in ("bpe", "file") and need_library() else {}
    settings = section.model_dump(exclude={"file"})
    return cache_key(settings, library, checksum(require_file(section.file)) if section.file else None)


def split_documents(documents: Sequence[str], fraction: float) -> tuple[list[str], list[str]]:
    """Split documents into the training part and the validation part, the last `fraction` of all characters."""
    left = sum(map(len, documents)) * (1 - fraction)
    for index, document in enumerate(documents):
        if len(document) > left:
            at = round(left)
            cut = document.find("\n", at) + 1 if at else 0
            if not 0 < cut < len(document):
                cut = at if index == 0 else 0
            return [*documents[:index], *([document[:cut]] if cut else [])], [document[cut:], *documents[index + 1 :]]
        left -= len(document)
    return list(documents), []


def blocks(chunks: Iterable[str]) -> Iterator[str]:
    """Pieces of whole lines from a document that comes in chunks. The pieces do not depend on the chunks."""
    waiting = ""
    for chunk in chunks:
        waiting += chunk
        while (cut := waiting.find("\n", _BLOCK) + 1) > 0 and cut < len(waiting):
            yield waiting[:cut]
            waiting = waiting[cut:]
    yield waiting


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _ids(tokenizer: Tokenizer, documents: Iterable[str]) -> Array:
    """Ids of the documents, each followed by the tokenizer's `end`."""
    found: list[Array] = []
    for batch in _batches(documents):
        pieces = [list(blocks([document])) for document in batch]
        encoded = iter(tokenizer.encode_texts(list(chain.from_iterable(pieces))))
        found += [np.concatenate([*islice(encoded, len(own)), tokenizer.end]) for own in pieces]
    return np.concatenate(found) if found else np.empty(0, dtype=smallest_type(tokenizer.vocab_size))


def read_text(path: Path) -> str:
    """The text of a file; raises `DataError` if the file cannot be read, or is not UTF-8."""
    try:
        return read_bytes(path, most=MOST_OF_DATA, error=DataError).decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 text (byte {error.start}); only the tokenizer bytes reads any file"
        ) from None
