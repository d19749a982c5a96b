"""Fields and abilities of every `model:` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self

from mutransfer.config.base import Section, Size
from mutransfer.config.data.base import DataSpec, TokenSpec
from mutransfer.config.hparams import Hparams
from mutransfer.config.rules import RulesSection
from mutransfer.config.search import SearchSection
from mutransfer.config.trainer import IN_PROCESS, TrainerFacts


@dataclass(frozen=True)
class Loss:
    """What a model is trained on: mean over all targets, of outputs (…, classes) against ids (…) for cross entropy."""

    kind: Literal["cross_entropy", "mse", "returned"] = "cross_entropy"
    """`returned`: the model is called with its inputs and the targets, and returns the loss itself."""
    label_smoothing: float = 0.0
    """In training only; the validation loss has none."""
    ignores: bool = False
    """Whether targets may be `IGNORED` (padding, tokens that were not masked) and do not count."""


class AnyRun(Protocol):
    """The parts of a `RunConfig` that a model may have rules for."""

    @property
    def parametrization(self) -> str:
        """`RunConfig.parametrization`."""

    @property
    def rules(self) -> RulesSection:
        """`RunConfig.rules`."""

    @property
    def hparams(self) -> Hparams:
        """`RunConfig.hparams`."""

    @property
    def search(self) -> SearchSection | None:
        """`RunConfig.search`."""


class BaseModelSection(Section):
    """Fields that every model has."""

    if TYPE_CHECKING:
        kind: str

    implementation: ClassVar[str]
    """Where the `nn.Module` is: `package.module:Class`, built as `Class(section, data_spec)`."""
    consumes: ClassVar[Literal["tokens", "masked tokens", "token pairs", "classes", "any", "nothing"]]
    """What data the model takes: token sequences, such with masked tokens to guess, pairs of sequences, features with a
    class label, what its author says, or none from here."""
    trainer: ClassVar[TrainerFacts] = IN_PROCESS
    """What trains it."""
    default_data: ClassVar[str | None] = None
    """Kind of the `data:` section if the config has none; None if the config must have one."""
    attention: ClassVar[bool] = False
    """Whether there are attention logits, and so an attention temperature to tune."""
    foreign: ClassVar[bool] = False
    """Whether it is foreign code: it may draw random numbers while it trains (dropout), and fail in its own ways."""
    exporter: ClassVar[str | None] = None
    """`package.module:function` that writes a trained model in a format of its own, called as
    `function(config, weights, folder)`."""
    rehearsal: ClassVar[str | None] = None
    """`package.module:function`, called with the config before anything is trained; it raises where the model that
    would be trained is not the one that the section names."""
    residual: ClassVar[bool] = False
    """Whether it is a pre-norm residual model, for which there are depth rules."""

    lacks: ClassVar[dict[str, str]] = {}
    """Why a field of `ModelFacts` may name no modules, where the model is not the user's own."""
    metrics: ClassVar[dict[str, str]] = {}
    """What can be measured of it beside the loss: name, and where the function is (`package.module:function`)."""

    width: Size
    """The dimension that grows: d_model of a gpt, hidden units of an mlp."""
    base_width: Size
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
    def criterion(self) -> Loss:
        """What is minimised."""
        return Loss()

    def places(self, parameter: str, spec: DataSpec) -> int:
        """How many positions of one example a weight is multiplied at; for the count of FLOPs."""
        del parameter
        return spec.seq_len if isinstance(spec, TokenSpec) else 1

    def scores(self, attention: str, spec: DataSpec) -> int:
        """How many (query, key) pairs an attention module has for one example, masked ones among them."""
        return self.places(attention, spec) ** 2

    def check_run(self, run: AnyRun) -> None:
        """Refuse a config that is impossible with this model.

        Raises:
            FieldProblem: at a path from the root of the config.
        """

    # A kind that has one of these properties calls its field by the name used here.

    @property
    def has_biases(self) -> bool:
        """Whether there are biases, and so an lr of theirs to tune."""
        return bool(getattr(self, "bias", False))

    @property
    def has_norm_gains(self) -> bool:
        """Whether norms have trainable gains."""
        return bool(getattr(self, "norm_gain", False))

    @property
    def ties_embeddings(self) -> bool:
        """Whether the readout shares the embedding's weights, as far as the config says."""
        return bool(getattr(self, "tied_embeddings", False))

    @property
    def zeroes_readout(self) -> bool:
        """Whether readout weights start at zero, as far as the config says."""
        return getattr(self, "zero_readout", True) is not False

    @property
    def exports(self) -> bool:
        """Whether a trained model is written in a format of its own."""
        return self.exporter is not None

    @property
    def layers(self) -> int | None:
        """The number of layers; None where the config does not say it."""
        found: int | None = getattr(self, "depth", None)
        return found

    @property
    def label(self) -> str:
        """What messages call the model: its factory, or its kind."""
        return str(getattr(self, "factory", f"model kind {getattr(self, 'kind', '?')}"))

    def dead_hparams(self) -> dict[str, str]:
        """Hparams that would change nothing for this model, each with the reason."""
        dead = {"relative_scale": "the model has no relative positions"}
        if not self.attention:
            dead["attention_temperature"] = "the model has no attention"
        if not self.has_norm_gains:
            dead["norm_gain_lr"] = "the model has no trainable norm gains"
        if not self.has_biases:
            dead["bias_lr"] = "the model has no biases"
        return dead

    @property
    def has_control(self) -> bool:
        """Whether it can be trained in `sp` as well."""
        return True

    def dead_training(self) -> dict[str, str]:
        """Fields of the `training:` section that would change nothing for this model, each with the reason."""
        return {}
