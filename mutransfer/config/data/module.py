"""`data: {kind: module}`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from mutransfer.config.base import RowCount
from mutransfer.config.data.base import AnySpec, BaseDataSection
from mutransfer.config.factory import FactoryName, require_plain


class DataModuleSection(BaseDataSection):
    """Data from a factory of your own (docs/your-model.md). Further keys of the section are its arguments."""

    model_config = ConfigDict(extra="allow")

    implementation = "mutransfer.data.module:load"

    kind: Literal["module"]
    """Data kind."""
    factory: FactoryName
    """`package.file:function`, importable from the current folder. Called with the further keys of this section;
    returns a pair of arrays (inputs, targets), inputs being one array or a tuple of them, or an object with `batch`,
    `validation` and `fingerprint` as in mutransfer.data.dataset.Dataset."""
    finite_sizes: Annotated[tuple[RowCount, ...], Field(strict=False)] = ()
    """Sizes of the data that do not grow (features, classes), so that no warning is raised where one equals the base
    width."""

    @model_validator(mode="after")
    def _plain_arguments(self) -> Self:
        require_plain(self.model_extra)
        return self

    @property
    def spec(self) -> AnySpec:  # noqa: D102
        return AnySpec(self.finite_sizes)
