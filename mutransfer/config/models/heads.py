"""Fields of every Transformer that attends with heads of `head_dim`, or with `heads` of them."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from mutransfer.config.base import Depth, Few, FieldProblem, Size
from mutransfer.config.models.base import BaseModelSection


class TransformerSection(BaseModelSection):
    """Fields of all pre-norm Transformers."""

    attention = True
    residual = True

    depth: Depth = 2
    """Number of blocks; an encoder and a decoder have this many each."""
    head_dim: Size | None = None
    """Fixed size of a head: heads multiply as the model widens (TP-V's advice). Give this or `heads`."""
    heads: Size | None = None
    """Fixed number of heads: heads widen with the model. Give this or `head_dim`."""
    mlp_ratio: Few = 4
    """Width of the feed-forward layer over the model's width."""
    norm_gain: bool = False
    """Trainable norm gains. Off by default: they break transfer (Lingle 2024)."""
    tied_embeddings: bool = False
    """The readout shares the weights of the embedding of its tokens. They start with std 1/√base_width, and the
    embedding's output is multiplied by √base_width."""
    zero_readout: bool | None = None
    """Readout weights start at zero. Default: true, or false with tied embeddings, where true is impossible."""
    zero_query: bool = True
    """Query weights start at zero."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if (self.head_dim is None) == (self.heads is None):
            raise FieldProblem(
                ("head_dim",),
                "give exactly one of head_dim (fixed size, more heads as the model widens) and "
                "heads (fixed number, wider heads)",
            )
        for name in ("width", "base_width"):
            width = getattr(self, name)
            if self.head_dim is not None and width % self.head_dim:
                raise FieldProblem(("head_dim",), f"{self.head_dim} does not divide {name} {width}")
            if self.heads is not None and width % self.heads:
                raise FieldProblem(("heads",), f"{self.heads} does not divide {name} {width}")
        if self.tied_embeddings and self.zero_readout:
            raise FieldProblem(("zero_readout",), "is impossible with tied_embeddings: the embedding is the readout")
        return self

    @property
    def relative(self) -> tuple[int, int] | None:
        """Buckets and largest distance of relative positions; None without them."""
        return None

    def head_dim_at(self, width: int) -> int:
        """Size of one head at `width`."""
        return self.head_dim if self.heads is None else width // self.heads  # type: ignore[return-value]  # _heads_fit

    def heads_at(self, width: int) -> int:
        """Number of heads at `width`."""
        return width // self.head_dim_at(width)

    def kv_heads_at(self, width: int) -> int:
        """Number of heads of keys and values at `width`; fewer than heads where a kind groups queries."""
        return self.heads_at(width)


class HeadsSection(TransformerSection):
    """Fields of the Transformers whose layers may have biases."""

    bias: bool = False
    """Whether layers, the readout and norms that have a gain have biases; they start at zero."""
