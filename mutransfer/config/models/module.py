"""`model: {kind: module}`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, model_validator

from mutransfer.config.base import FactorOrZero
from mutransfer.config.factory import FactoryName, require_plain
from mutransfer.config.models.base import BaseModelSection, Loss
from mutransfer.shown import quoted

_LOSSES = ("cross_entropy", "mse", "returned")


def _as_loss(value: Any) -> Any:
    if isinstance(value, Loss):
        return value
    if value not in _LOSSES:
        raise ValueError(f"must be {', '.join(map(repr, _LOSSES[:-1]))} or {_LOSSES[-1]!r}, but got {quoted(value)}")
    return Loss(value, ignores=value != "mse")


NamedLoss = Annotated[
    Loss,
    BeforeValidator(_as_loss),
    PlainSerializer(lambda loss: loss.kind, return_type=str),
    WithJsonSchema({"enum": list(_LOSSES), "type": "string"}),
]


class ModuleSection(BaseModelSection):
    """A module of your own (docs/your-model.md). Further keys of the section are arguments of the factory."""

    model_config = ConfigDict(extra="allow")

    implementation = "mutransfer.models.module:build"
    consumes = "any"
    attention = True
    foreign = True

    kind: Literal["module"]
    """Model kind."""
    factory: FactoryName
    """`package.file:function`, importable from the current folder. Called with `width`, with the further keys of
    this section, and with whatever of `base_width` and the data's sizes (`vocab_size`, `seq_len`, `shape`,
    `classes`, …) it has parameters for; returns the `nn.Module`."""
    loss: NamedLoss = Loss(ignores=True)
    """`cross_entropy` of logits (…, classes); `mse`; or `returned`: the module is called with the targets too and
    returns its loss."""
    zero_readout: bool = True
    """Readout weights start at zero."""
    roles: dict[str, Literal["input", "hidden", "output", "vector", "scalar"]] = Field(default_factory=dict)
    """Role by parameter name or pattern, where shapes cannot tell."""
    init_std: dict[str, FactorOrZero] = Field(default_factory=dict)
    """Initial std at base width by parameter name or pattern, instead of 1 for embeddings and 1/√fan_in."""
    as_made: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Parameters, and modules with all their parameters, whose initial values stay as the factory made them."""
    readouts: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Modules that produce the logits, by name or pattern; hparams.temperature divides these. The default is found
    from shapes: the layers from the width to a constant size that no further layer follows."""

    finite: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Modules inside the network, by name or pattern, whose outputs do not grow on purpose; for the coordinate
    check."""

    @model_validator(mode="after")
    def _plain_arguments(self) -> Self:
        require_plain(self.model_extra)
        return self

    def dead_hparams(self) -> dict[str, str]:
        """No hparam: whether a module uses one is known only after it is built."""
        return {}

    @property
    def criterion(self) -> Loss:  # noqa: D102
        return self.loss
