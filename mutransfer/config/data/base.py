"""Shapes of data as models see them, and the fields that every source has."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from mutransfer.config.base import Section


@dataclass(frozen=True)
class TokenSpec:
    """Shape of token data: inputs and targets (batch, seq_len), ids below `vocab_size`."""

    vocab_size: int
    seq_len: int
    consumed_as: ClassVar = "tokens"

    @property
    def sizes(self) -> set[int]:
        """Sizes that do not follow width."""
        return {self.vocab_size, self.seq_len}


@dataclass(frozen=True)
class ClassSpec:
    """Shape of labelled data: inputs (batch, *shape), targets (batch,) below `classes`."""

    shape: tuple[int, ...]
    classes: int
    consumed_as: ClassVar = "classes"

    @property
    def features(self) -> int:
        """Numbers in one example."""
        total = 1
        for size in self.shape:
            total *= size
        return total

    @property
    def sizes(self) -> set[int]:
        """Sizes that do not follow width."""
        return {self.features, self.classes}


@dataclass(frozen=True)
class AnySpec:
    """Data of a user's own factory: nothing is known before it is opened but what the config says."""

    sizes: tuple[int, ...] = ()
    """Sizes that do not follow width."""
    consumed_as: ClassVar = "any"


DataSpec = TokenSpec | ClassSpec | AnySpec


class BaseDataSection(Section):
    """Fields that every source has."""

    implementation: ClassVar[str]
    """Where the loader is: `package.module:function`, called as `function(section)`."""

    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the data kept for validation; it never overlaps the training part."""

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """What the model needs to know, without opening the data."""
