"""Fields that every model has; what the rest of the code asks of a `model:` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import PositiveInt

from mutransfer.config.base import Section


@dataclass(frozen=True)
class Loss:
    """What a model is trained on: mean over all targets, of outputs (…, classes) against ids (…) for cross entropy."""

    kind: Literal["cross_entropy", "mse", "returned"] = "cross_entropy"
    """`returned`: the model is called with its inputs and the targets, and returns the loss itself."""
    label_smoothing: float = 0.0
    """In training only; the validation loss goes without."""
    ignores: bool = False
    """Whether targets may be `IGNORED` (padding, tokens that were not masked) and do not count."""


class BaseModelSection(Section):
    """Fields that every model has."""

    implementation: ClassVar[str]
    """Where the `nn.Module` is: `package.module:Class`, built as `Class(section, data_spec)`."""
    consumes: ClassVar[Literal["tokens", "classes", "any"]]
    """What data the model takes: token sequences, features with a class label, or what its author says."""
    attention: ClassVar[bool] = False
    """Whether there are attention logits, and so an attention temperature to tune."""
    draws: ClassVar[bool] = False
    """Whether it is foreign code: it may draw random numbers while it trains (dropout), and fail in its own ways."""
    exporter: ClassVar[str | None] = None
    """`package.module:function` that writes a trained model in a format of its own, called as
    `function(config, weights, folder)`."""
    residual: ClassVar[bool] = False
    """Whether it is a pre-norm residual model, for which there are depth rules."""

    width: PositiveInt
    """The dimension that grows: d_model of a gpt, hidden units of an mlp."""
    base_width: PositiveInt
    """Width at which µP equals the standard parametrization exactly; the same for proxy and target."""

    @classmethod
    def accepts(cls, given: str) -> bool:
        """Whether it can be trained on data of that shape, a `consumed_as`."""
        return cls.consumes == given or (cls.consumes == "any" and given != "nothing")

    def at_width(self, width: int) -> Self:
        """The same model at another width, validated again.

        Raises:
            pydantic.ValidationError: the width does not fit the other fields.
        """
        return type(self).model_validate({**self.model_dump(), "width": width})

    @property
    def loss(self) -> Loss:
        """What is minimised."""
        return Loss()

    @property
    def finite_modules(self) -> tuple[str, ...]:
        """Patterns of modules inside the network whose outputs do not grow on purpose."""
        return ()

    def dead_hparams(self) -> dict[str, str]:
        """Hparams that would change nothing for this model, each with the reason."""
        dead = {"relative_scale": "the model has no relative positions"}
        return dead if self.attention else {**dead, "attention_temperature": "the model has no attention"}
