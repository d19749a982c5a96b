"""`model: {kind: resnet}`."""

from __future__ import annotations

from typing import Annotated, Literal, Self, cast

from pydantic import Field, model_validator

from mutransfer.config.base import Depth, FieldProblem, Size
from mutransfer.config.data.base import ClassSpec, DataSpec
from mutransfer.config.models.base import BaseModelSection

LARGE = 64
"""Images larger than this pass a stem that makes them four times smaller."""
_GROUP_SIZE = 8


class ResNetSection(BaseModelSection):
    """Residual convolutional network of ResNet-18's form; `width` is the channels of the first stage, there 64."""

    implementation = "mutransfer.models.resnet:ResNet"
    consumes = "classes"

    kind: Literal["resnet"]
    """Model kind."""
    blocks: Annotated[tuple[Depth, ...], Field(strict=False, min_length=1, max_length=6)] = (2, 2, 2, 2)
    """Blocks of each stage. Every stage has twice the channels of the one before, at half the resolution."""
    norm: Literal["batch", "group"] = "batch"
    """Norm over the batch, with running means of it in evaluation; or over groups of channels of one image."""
    group_size: Size | None = None
    """Channels per group of norm `group`, the same at every width, so that the number of groups grows with the model.
    Default: 8."""
    norm_gain: bool = False
    """Trainable norm gains and biases. Off by default: gains break transfer (Lingle 2024)."""
    zero_readout: bool = True
    """Readout weights start at zero."""

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        if self.norm == "batch" and self.group_size is not None:
            raise FieldProblem(("group_size",), "has no effect with norm batch; it is for group")
        for name in ("width", "base_width"):
            if self.norm == "group" and getattr(self, name) % self.channels_of_group:
                raise FieldProblem(
                    ("group_size",), f"{self.channels_of_group} does not divide {name} {getattr(self, name)}"
                )
        return self

    @property
    def channels_of_group(self) -> int:
        """Channels of a group of norm `group`."""
        return _GROUP_SIZE if self.group_size is None else self.group_size

    def places(self, parameter: str, spec: DataSpec) -> int:
        """Pixels of what a convolution gives; 1 of the readout."""
        if parameter.startswith("readout."):
            return 1
        _, *sides = cast(ClassSpec, spec).shape
        if max(sides) > LARGE:
            sides = [_halved(side) for side in sides]  # the stem's own stride; the pooling behind it halves again
        if not parameter.startswith("stem."):
            stage = int(parameter.split(".")[1])
            halvings = stage + (1 if max(cast(ClassSpec, spec).shape[1:]) > LARGE else 0)
            for _ in range(halvings):
                sides = [_halved(side) for side in sides]
        total = 1
        for side in sides:
            total *= side
        return total

    @property
    def has_biases(self) -> bool:  # noqa: D102
        return True  # the readout's

    def dead_hparams(self) -> dict[str, str]:  # noqa: D102
        return {**super().dead_hparams(), "position_scale": "the model has no positions"}


def _halved(side: int) -> int:
    return (side + 1) // 2
