"""Why a check fails or stays undecided, and what would cause it, as values. `coord_words` and `transfer_words` turn
them into sentences; nothing else reads a sentence."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, ClassVar, Literal

from mutransfer.verification.slopes import Slope

Quantity = Literal["size", "change", "update"]
"""Of a module: its RMS at init, its RMS change since init, the part of the change that its own weights made."""


@dataclass(frozen=True)
class BadSlope:
    """A quantity that follows the model's size although it should not."""

    kind: ClassVar = "slope"
    quantity: Quantity
    axis: str
    slope: Slope
    allowed: tuple[float, float]


@dataclass(frozen=True)
class Unusable:
    """A quantity that is zero, infinite or NaN at some sizes, so that no slope can be fitted."""

    kind: ClassVar = "unusable"
    quantity: Quantity
    axis: str
    finite: bool
    """True: it is zero at these sizes; False: it is infinite or NaN somewhere."""
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class NeverMoves:
    """A quantity that is zero at every size although trainable parameters act on it."""

    kind: ClassVar = "never moves"
    quantity: Quantity


@dataclass(frozen=True)
class NotOptimized:
    """Parameters that no group of the optimizer has."""

    kind: ClassVar = "not optimized"
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class DoesNotGrow:
    """An output inside the network that has the same shape at every width."""

    kind: ClassVar = "does not grow"
    shape: tuple[int, ...]
    """Without the batch dimension."""


Reason = BadSlope | Unusable | NeverMoves | NotOptimized | DoesNotGrow


class Cause(StrEnum):
    """Which broken rule would look like the first failure."""

    NOT_OPTIMIZED = "parameters missing from the optimizer"
    FIXED_SIZE = "size does not follow width"
    DIVERGES = "training diverges"
    NOTHING_MOVES = "nothing moves"
    CONTROL = "control parametrization"
    DEPTH_RULE = "depth rule missing"
    SMALL_SLOPE = "slope smaller than a broken rule gives"
    ATTENTION_ROOT = "attention scale is 1/sqrt(head_dim)"
    ATTENTION_LR = "lr of query or key, or attention scale, grows"
    ATTENTION_INIT = "queries and keys grow at init"
    ATTENTION_TWICE = "attention scale applied twice"
    READOUT_LR_TWICE = "readout lr grows twice"
    READOUT_MULTIPLIER = "readout multiplier missing"
    READOUT_MULTIPLIER_AT_INIT = "readout multiplier missing, init std not 0"
    READOUT_TWICE_AT_INIT = "readout multiplier applied twice, or init std shrinks"
    READOUT_LR_DIVIDED = "readout lr divided"
    READOUT_LR_SGD = "readout lr not multiplied"
    READOUT_TWICE = "readout multiplier applied twice"
    HIDDEN_STD_LARGE = "hidden init std not divided"
    HIDDEN_STD_SMALL = "hidden init std divided too much"
    HIDDEN_LR = "hidden lr not divided"
    GRADIENT_GROWS = "gradient grows"
    HIDDEN_LR_GROWS = "hidden lr grows"
    HIDDEN_LR_DIVIDED = "hidden lr divided too much"
    HIDDEN_LR_SHRINKS = "hidden lr shrinks"
    INPUT_STD_GROWS = "input init std grows"
    INPUT_STD_SHRINKS = "input init std shrinks"
    INPUT_LR_DIVIDED = "input lr divided"
    INPUT_LR_GROWS = "input lr grows"
    INPUT_LR_SGD = "input lr not multiplied"
    INPUT_LR_FAST = "input lr grows too fast"
    VECTOR_INIT = "initial gain or bias follows width"
    VECTOR_LR_GROWS = "lr of gain or bias grows"
    VECTOR_LR_SHRINKS = "lr of gain or bias shrinks"
    VECTOR_LR_FAST = "lr of gain or bias grows too fast"
    VECTOR_LR_SLOW = "lr of gain or bias grows too slowly"
    GIVEN_INPUT = "input or forward pass follows width"
    FORWARD_FACTOR = "factor in the forward pass"


@dataclass(frozen=True)
class Hint:
    """The likely cause of the first failure, with what was measured of its weight."""

    cause: Cause
    module: str
    parametrization: str
    slope: float | None = None
    """The exponent that failed."""
    weight: str | None = None
    """Name of the weight that the plan takes for a readout's although the module is inside the network."""
    lr: float | None = None
    """Exponent of the weight's lr in width."""
    std: float | None = None
    """Exponent of the weight's initial std in width."""


def as_values(one: Any) -> dict[str, Any]:
    """A reason or hint (a dataclass) as JSON-ready data, with its `kind` if it has one."""
    kind = getattr(one, "kind", None)
    found: dict[str, Any] = plain(asdict(one))
    return found if kind is None else {"kind": kind, **found}


def plain(data: Any) -> Any:
    """The same without tuples and infinite numbers, which JSON does not have: lists and None instead."""
    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
