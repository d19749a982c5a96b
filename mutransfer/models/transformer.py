"""What the Transformers here are made of: attention with masks and memories, and pre-norm blocks.

Shapes: B batch, S positions that ask, M positions that are attended to, D width, H heads, G heads of keys and values, K
head size (D = H·K).

    x           (B, S, D)
    q           (B, H, S, K)
    k, v        (B, G, M, K)

Each head of keys and values serves H/G heads in a row. A mask (B, 1, 1, M) is True where a position may be attended to.

Every width-dependent number is set from outside by `parametrization.apply`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mutransfer.config.models.heads import TransformerSection
from mutransfer.models.layers import RelativeBias, norm_of, rotary_tables, rotate
from mutransfer.parametrization.facts import ModelFacts

KeysValues = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Attention of x to itself or to a memory; (B, S, D) → (B, S, D)."""

    attention_scale: Tensor

    def __init__(self, section: TransformerSection) -> None:
        super().__init__()
        width, bias = section.width, section.has_biases
        self.head_dim = section.head_dim_at(width)
        heads, kv_heads = section.heads_at(width), section.kv_heads_at(width)
        self.group = heads // kv_heads
        self.rotary = getattr(section, "positions", None) == "rotary"
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, kv_heads * self.head_dim, bias=bias)
        self.value = nn.Linear(width, kv_heads * self.head_dim, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        normed = getattr(section, "qk_norm", False)
        self.query_norm = norm_of(section, self.head_dim) if normed else None
        self.key_norm = norm_of(section, self.head_dim) if normed else None
        self.relative = None if section.relative is None else RelativeBias(heads, *section.relative)
        self.register_buffer("attention_scale", torch.tensor(1.0 / math.sqrt(self.head_dim)), persistent=False)

    def forward(
        self, x: Tensor, memory: KeysValues | None = None, *, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attend to `memory`, or to x itself."""
        q = self._heads(self.query(x))
        q = q if self.query_norm is None else self.query_norm(q)
        k, v = self.remember(x) if memory is None else memory
        if self.rotary:
            tables = rotary_tables(q)
            q, k = rotate(q, tables), rotate(k, tables)
        q = q * self.attention_scale.to(q.dtype)
        if self.group > 1:
            # Not SDPA's enable_gqa: with it CUDA has no fused kernel for fp32, and none that takes a bias.
            k, v = (one.repeat_interleave(self.group, dim=-3) for one in (k, v))
        if self.relative is not None:
            mask, causal = self.relative.causal(x.shape[-2], q.dtype), False
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=1.0)
        out: Tensor = self.out(mixed.transpose(-3, -2).reshape(x.shape))
        return out

    def remember(self, x: Tensor) -> KeysValues:
        """Keys and values of x (B, M, D)."""
        k, v = self._heads(self.key(x)), self._heads(self.value(x))
        return k if self.key_norm is None else self.key_norm(k), v

    def _heads(self, x: Tensor) -> Tensor:
        """(B, S, H·K) → (B, H, S, K)."""
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(-3, -2)


class Block(nn.Module):
    """x + attention(norm(x)), in a decoder with a memory x + cross(norm(x), memory), then x + mlp(norm(x)), each branch
    times `residual_scale`; (B, S, D) → (B, S, D)."""

    residual_scale: Tensor

    def __init__(self, section: TransformerSection, *, crosses: bool = False) -> None:
        super().__init__()
        width, inner, bias = section.width, section.mlp_ratio * section.width, section.has_biases
        self.attention_norm = norm_of(section, width)
        self.attention = Attention(section)
        self.cross_norm = norm_of(section, width) if crosses else None
        self.cross = Attention(section) if crosses else None
        self.mlp_norm = norm_of(section, width)
        self.up = nn.Linear(width, inner, bias=bias)
        self.gate = nn.Linear(width, inner, bias=bias) if getattr(section, "mlp", "gelu") == "swiglu" else None
        self.down = nn.Linear(inner, width, bias=bias)
        self.register_buffer("residual_scale", torch.tensor(1.0), persistent=False)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | KeysValues | None = None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        past: KeysValues | None = None,
    ) -> Tensor:
        """One block.

        Args:
            memory: what `cross` attends to: the encoder's output, or what `cross.remember` made of it.
            mask: over the memory where there is one, else over x.
            past: keys and values of earlier positions, x among them (`extend` makes them).
        """
        scale = self.residual_scale.to(x.dtype)
        own_mask = mask if self.cross is None else None
        x = x + scale * self.attention(self.attention_norm(x), past, mask=own_mask, causal=causal)
        if self.cross is not None and self.cross_norm is not None and memory is not None:
            remembered = memory if isinstance(memory, tuple) else self.cross.remember(memory)
            x = x + scale * self.cross(self.cross_norm(x), remembered, mask=mask)
        out: Tensor = x + scale * self.down(self._inner(self.mlp_norm(x)))
        return out

    def extend(self, past: KeysValues | None, x: Tensor) -> KeysValues:
        """Keys and values of earlier positions, and those of x behind them."""
        k, v = self.attention.remember(self.attention_norm(x))
        return (k, v) if past is None else (torch.cat((past[0], k), -2), torch.cat((past[1], v), -2))

    def _inner(self, x: Tensor) -> Tensor:
        """(B, S, D) → (B, S, inner)."""
        return F.gelu(self.up(x)) if self.gate is None else F.silu(self.gate(x)) * self.up(x)


def named(model: nn.Module, kind: type[nn.Module]) -> tuple[str, ...]:
    """Names of the modules of one class."""
    return tuple(name for name, module in model.named_modules() if isinstance(module, kind))


def transformer_facts(model: nn.Module, section: TransformerSection, *, table: str) -> ModelFacts:
    """The facts of a Transformer made of these blocks.

    Args:
        table: the embedding that `tied_embeddings` ties to the readout. The shared weight starts at 1/√base_width for
            the logits' sake, and its gain gives embeddings std 1 again.
    """
    relative, widen = named(model, RelativeBias), section.heads is not None
    init_std = {"*.query.weight": 0.0} if section.zero_query else {}
    return ModelFacts(
        readouts=("readout",),
        positions=tuple(name for name in named(model, nn.Embedding) if name.rpartition(".")[2] == "position"),
        gains={table: math.sqrt(section.base_width)} if section.tied_embeddings else {},
        # Relative positions are a table by their shape, but not one through which data enters: a bias for every head.
        roles={"*.relative.weight": "scalar" if widen else "vector"} if relative else {},
        init_std=init_std | ({"*.relative.weight": 0.0} if relative else {}),
        finite=relative if widen else (),
        attention=dict.fromkeys(named(model, Attention), section.head_dim_at(section.width)),
        blocks=named(model, Block),
        relative=relative,
    )
