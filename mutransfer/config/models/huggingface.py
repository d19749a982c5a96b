"""`model: {kind: huggingface}`."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from mutransfer.config.base import Depth, FieldProblem
from mutransfer.config.factory import require_plain
from mutransfer.config.models.base import BaseModelSection, Loss
from mutransfer.errors import UsageError
from mutransfer.files import at_home, read_json
from mutransfer.shown import quoted

_FACTOR = re.compile(r"\d{1,9}(\.\d{0,20}|/0*[1-9]\d{0,8})?|\.\d{1,20}|\d(\.\d{0,20})?e-?\d\d?")
# Families with a table of learned positions; all others that are known have rotary ones, which nothing scales.
_LEARNED_POSITIONS = {"gpt2", "bert", "roberta", "distilbert", "electra", "opt"}


class HuggingFaceSection(BaseModelSection):
    """A model of the transformers library (extra `hf`), built from its config with random weights."""

    implementation = "mutransfer.models.huggingface:build"
    exporter = "mutransfer.models.huggingface_export:save_pretrained"
    rehearsal = "mutransfer.models.huggingface_export:rehearse"
    consumes = "tokens"
    attention = True
    foreign = True
    lacks: ClassVar[dict[str, str]] = {
        "attention": "this family multiplies q·k by a number that cannot be set from outside"
    }

    kind: Literal["huggingface"]
    """Model kind."""
    config: str
    """A `config.json` or a folder with one, relative to the current folder; or a name on the Hugging Face hub, of which
    only the config is fetched."""
    depth: Depth | None = None
    """Number of layers, instead of the config's."""
    grow: Literal["heads", "head_dim"] = "heads"
    """What grows in attention: the number of heads (and of key-value heads) with heads of the config's size, or the
    size of the config's number of heads."""
    width_fields: dict[str, int | float | str] = Field(default_factory=dict)
    """Fields of the transformers config that are a multiple of width, as `{intermediate_size: 4, num_attention_heads:
    1/64}`, instead of growing in proportion to the config's own hidden_size."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Fields of the transformers config that get another value, as `{tie_word_embeddings: false}`."""
    dropout: bool = False
    """Keep the config's dropout; off by default, since the best rate follows size and data."""
    norm_gain: bool = False
    """Trainable norm gains, which break transfer (Lingle 2024). Off, gains stay at 1."""
    zero_readout: bool | None = None
    """Readout weights start at zero. Default: true, or false with tied embeddings, where true is impossible."""
    zero_query: bool | None = None
    """Query weights start at zero. Default: true, or false where queries, keys and values are one matrix (GPT-2), where
    true is impossible."""

    export: bool = True
    """Write a checkpoint for plain transformers after training. A model for which that is impossible is refused before
    training."""
    roles: dict[str, Literal["input", "hidden", "output", "vector", "scalar"]] = Field(default_factory=dict)
    """Role by parameter name or pattern, where shapes cannot tell: that of a bottleneck is `output`."""
    finite: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Modules inside the network, by name or pattern, whose outputs do not grow on purpose; for the coordinate
    check."""

    @classmethod
    def accepts(cls, given: str) -> bool:
        """Tokens for a causal model, masked ones for one that guesses them, pairs for an encoder–decoder, images."""
        return given in ("tokens", "masked tokens", "token pairs", "classes")

    @property
    def criterion(self) -> Loss:  # noqa: D102
        return Loss(ignores=True)

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        require_plain({"overrides": self.overrides})
        for name, factor in self.width_fields.items():
            if not (_FACTOR.fullmatch(str(factor)) and Fraction(factor) > 0):
                raise FieldProblem(
                    ("width_fields", name), f"must be a positive number or a fraction as 1/64, but got {quoted(factor)}"
                )
            if name in self.overrides:
                raise FieldProblem(("overrides", name), "is in width_fields too")
        return self

    @property
    def exports(self) -> bool:  # noqa: D102
        return self.export

    @property
    def label(self) -> str:  # noqa: D102
        return f"model kind huggingface ({self.config})"

    @property
    def has_biases(self) -> bool:
        """A family's own affair: whether there are any is seen when the model is built."""
        return True

    def dead_hparams(self) -> dict[str, str]:  # noqa: D102
        family, dead = _family(self.config), super().dead_hparams()
        dead.pop("bias_lr", None)  # whether there are biases is seen when it is built
        if family is None or family in _LEARNED_POSITIONS:
            return dead
        return {**dead, "position_scale": f"{family} has no table of learned positions"}


def config_file(name: str) -> Path | None:
    """The local `config.json` that `model.config` names; None where it names none."""
    path = at_home(name)
    return next((one for one in (path, path / "config.json") if one.is_file()), None)


class _Family(BaseModel):
    model_type: str


def _family(name: str) -> str | None:
    """`model_type` of a local config; None where it cannot be told without loading it."""
    file = config_file(name)
    try:
        return None if file is None else read_json(file, _Family, advice="").model_type
    except UsageError:
        return None
