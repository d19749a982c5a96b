"""The `tokenizer:` field of data that is text."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from mutransfer.config.base import FieldProblem, Section, Size
from mutransfer.errors import UsageError
from mutransfer.files import at_home, read_json

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


_Id = Annotated[int, Field(ge=0, le=10**7)]


class _Added(BaseModel):
    id: _Id


class _Vocabulary(BaseModel):
    vocab: Annotated[dict[str, _Id] | list[Any], Field(min_length=1)]


class _Tokenizer(BaseModel):
    """What is read of a tokenizer.json."""

    model: _Vocabulary
    added_tokens: list[_Added] | None = None


def _size_of(file: str) -> int:
    """Largest id and one of a tokenizer file, without the library that made it."""
    try:
        path = at_home(file)
        if not path.exists():
            raise UsageError(f"{file}: no such file; give vocab_size too if the file is made later")
        content = read_json(path, _Tokenizer, advice="it is not a tokenizer.json of the tokenizers library")
    except (UsageError, OSError) as error:
        raise FieldProblem(("file",), str(error)) from None
    vocabulary = content.model.vocab
    ids = [token.id for token in content.added_tokens or ()]
    ids += vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return max(ids, default=0) + 1


TokenizerField = Annotated[
    TokenizerSection, BeforeValidator(_written_short, json_schema_input_type=TokenizerSection | Literal["bytes"])
]
