"""`model: {kind: gpt}`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mutransfer.config.base import FieldProblem, Size
from mutransfer.config.models.heads import TransformerSection

RELATIVE_BUCKETS, RELATIVE_DISTANCE = 32, 128


class GPTSection(TransformerSection):
    """Decoder-only Transformer, pre-norm."""

    implementation = "mutransfer.models.gpt:GPT"
    consumes = "tokens"

    kind: Literal["gpt"]
    """Model kind."""
    kv_group: Size | None = None
    """Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245): number of heads that share a key and a value,
    the same at every width. Give this, or `kv_heads`, or neither for a key and a value per head."""
    kv_heads: Size | None = None
    """Grouped-query attention: number of keys and values, the same at every width; 1 is multi-query attention. Only
    with `heads`: with `head_dim` keys and values would not grow, and no rule for that transfers (docs/models.md)."""
    qk_norm: bool = False
    """Queries and keys are normalised per head (Henry et al. 2020, arXiv 2010.04245), by the kind of `norm`."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """Feed-forward layer: two matrices around a gelu, or three with a gate (Shazeer 2020, arXiv 2002.05202)."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Normalisation in front of each branch and of the readout."""
    positions: Literal["rotary", "learned", "relative"] = "rotary"
    """Rotary positions (which need an even head size), learned position embeddings, or a learned bias on attention
    logits per head and distance. Rotary by default: learned ones of the tokens' own size cost 0.2 nats in short runs
    and hide that wider is better (BENCHMARKS.md)."""
    relative_buckets: Annotated[Size, Field(ge=2)] | None = None
    """Biases per head with `positions: relative`. Default: 32. Half of them are for one near distance each, the others
    for ranges of distances that grow by a constant factor (Raffel et al. 2020, arXiv 1910.10683, §2.1)."""
    relative_distance: Size | None = None
    """Distance beyond which `positions: relative` uses one bias for all. Default: 128."""
    zero_query: bool = True
    """Query weights start at zero. With qk_norm the default is false, and true is impossible: a normalised zero has no
    direction."""

    @model_validator(mode="before")
    @classmethod
    def _zero_query_left_out(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("qk_norm") is True:
            return {"zero_query": False, **data}
        return data

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if self.kv_heads is not None and self.kv_group is not None:
            raise FieldProblem(
                ("kv_heads",),
                "give kv_heads (the number of keys at every width) or kv_group (the number of heads per key at every "
                "width), not both",
            )
        if self.kv_heads is not None and self.head_dim is not None:
            heads = self.width // self.head_dim
            raise FieldProblem(
                ("kv_heads",),
                "with head_dim keys and values would not grow with the model, for which no rule transfers "
                f"(docs/models.md): write kv_group: {max(heads // self.kv_heads, 1)} instead (the number of heads per "
                f"key at every width), or heads: {heads} instead of head_dim (heads that widen)",
            )
        for name in ("width", "base_width"):
            width = getattr(self, name)
            for field in ("kv_heads", "kv_group"):
                number, heads = getattr(self, field), self.heads_at(width)
                if number is not None and heads % number:
                    raise FieldProblem(
                        (field,), f"{number} does not divide the number of heads, which is {heads} at {name} {width}"
                    )
            if self.positions == "rotary" and self.head_dim_at(width) % 2:
                raise FieldProblem(
                    ("positions",), f"rotary needs an even head size, but {name} {width} has heads of "
                    f"{self.head_dim_at(width)}",
                )  # fmt: skip
        return self

    @model_validator(mode="after")
    def _choices_fit(self) -> Self:
        if self.qk_norm and self.zero_query:
            raise FieldProblem(("zero_query",), "is impossible with qk_norm: a normalised zero has no direction")
        for name in ("relative_buckets", "relative_distance"):
            if self.positions != "relative" and getattr(self, name) is not None:
                raise FieldProblem((name,), f"has no effect: model.positions is {self.positions}")
        if self.relative is not None:
            buckets, distance = self.relative
            if distance <= buckets // 2:
                raise FieldProblem(
                    ("relative_distance",),
                    f"{distance} must be more than half of relative_buckets, which is {buckets}: {buckets // 2} of "
                    "them are for one distance each",
                )
        return self

    def kv_heads_at(self, width: int) -> int:
        """Number of keys and values at `width`."""
        return self.kv_heads or self.heads_at(width) // (self.kv_group or 1)

    @property
    def relative(self) -> tuple[int, int] | None:  # noqa: D102
        if self.positions != "relative":
            return None
        return self.relative_buckets or RELATIVE_BUCKETS, self.relative_distance or RELATIVE_DISTANCE

    def dead_hparams(self) -> dict[str, str]:  # noqa: D102
        dead = super().dead_hparams()
        if self.positions == "relative":
            del dead["relative_scale"]
        if self.positions != "learned":
            dead["position_scale"] = f"model.positions is {self.positions}; only learned positions are scaled"
        return dead
