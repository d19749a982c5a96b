"""The `tokenizer:` field of data that is text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from mutransfer.config.base import FieldProblem, Section, Size

_BYTES = 256
TokenizerKind = Literal["bytes", "words", "bpe", "file"]


class TokenizerSection(Section):
    """How text becomes token ids."""

    kind: TokenizerKind = "bytes"
    """`bytes`; `words` between white space, `<eos>` after each line, the most frequent of the training part kept and
    `<unk>` for the others; `bpe`, byte pairs trained on the training part (extra `hf`); `file`, see there."""
    vocab_size: Size | None = None
    """Number of token ids, special ones included; `words` and `bpe` need it. Default with `file`: read from the file
    when the config is loaded."""
    file: str | None = None
    """A JSON file of the `tokenizers` library (extra `hf`), relative to the current folder. Written alone it makes
    the kind `file`."""
    eos: str | None = None
    """Token of that file which ends every document. Default: a newline."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.kind == "file") != (self.file is not None):
            raise FieldProblem(("file",), "belongs to tokenizer kind file; give both or neither")
        if self.kind != "file" and self.eos is not None:
            raise FieldProblem(("eos",), f"has no effect with tokenizer kind {self.kind}")
        if self.kind == "bytes" and self.vocab_size is not None:
            raise FieldProblem(("vocab_size",), f"has no effect: bytes are always {_BYTES}")
        if self.kind in ("words", "bpe") and self.vocab_size is None:
            raise FieldProblem(
                ("vocab_size",), f"tokenizer kind {self.kind} needs it, for example {{kind: {self.kind}, "
                f"vocab_size: {8192 if self.kind == 'bpe' else 33278}}}",
            )  # fmt: skip
        if self.kind == "bpe" and self.vocab_size is not None and self.vocab_size < _BYTES + 8:
            raise FieldProblem(
                ("vocab_size",), f"must be at least {_BYTES + 8}, as every byte is a token, but got {self.vocab_size}"
            )
        if self.kind == "words" and self.vocab_size is not None and self.vocab_size < 8:
            raise FieldProblem(("vocab_size",), f"must be at least 8, but got {self.vocab_size}")
        return self

    def ids(self, specials: int = 0) -> int:
        """Number of token ids; of bytes the `specials` special tokens come on top, of the others they are among it."""
        return _BYTES + specials if self.vocab_size is None else self.vocab_size


def _written_short(given: Any) -> Any:
    """`bytes` for `{kind: bytes}`, `{file: …}` for kind `file` with the vocabulary's size read off it."""
    if isinstance(given, str):
        return {"kind": given}
    if isinstance(given, dict) and isinstance(given.get("file"), str):
        whole = {"kind": "file", **given}
        if whole["kind"] == "file" and whole.get("vocab_size") is None:
            whole["vocab_size"] = _size_of(given["file"])
        return whole
    return given


def _size_of(file: str) -> int:
    """Largest id and one of a tokenizer file, without the library that made it."""
    try:
        content = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        ids = [token["id"] for token in content.get("added_tokens") or ()]
        ids += vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        return int(max(ids)) + 1
    except FileNotFoundError:
        raise FieldProblem(("file",), f"{file}: no such file; give vocab_size too if the file is made later") from None
    except OSError as error:
        raise FieldProblem(("file",), f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FieldProblem(("file",), f"{file}: is not a tokenizer.json of the tokenizers library") from None


TokenizerField = Annotated[
    TokenizerSection, BeforeValidator(_written_short, json_schema_input_type=TokenizerSection | Literal["bytes"])
]
