"""What a parametrization comes to, in numbers that two trainers can be compared by.

Multiplying a weight's output by θ while dividing its initial std by θ and its lr by θ (Adam; θ² for SGD) changes
nothing (TP-V, Lemma J.1). So trainers are compared by what is left when that freedom is taken out: `InEffect`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mutransfer.config.models import GPTSection
from mutransfer.config.schema import RunConfig
from mutransfer.errors import UsageError
from mutransfer.optimizers.base import OptimizerFamily
from mutransfer.parametrization.plan import Plan
from mutransfer.parametrization.rules import gradient_sized
from mutransfer.parametrization.settings import settings

_TOLERANCE = 1e-6
LATE_WARMUP = "during warmup its lr is one step behind: the first step has lr 0"
"""A note of several trainers."""


@dataclass(frozen=True)
class InEffect:
    """One kind of weight under one trainer, its multiplier folded into the weight."""

    init: float
    """multiplier × initial std."""
    lr: float
    """multiplier × peak lr (Adam), multiplier² × peak lr (SGD)."""
    decay: float
    """lr × weight decay: the share of a weight that a step at the peak takes away."""
    eps: float | None
    """Adam's ε / multiplier; None for SGD."""

    @classmethod
    def of(
        cls,
        *,
        std: float,
        multiplier: float,
        lr: float,
        weight_decay: float,
        eps: float | None,
        family: OptimizerFamily,
    ) -> InEffect:
        """From what a trainer calls them."""
        power = 2 if gradient_sized(family) else 1
        return cls(
            init=multiplier * std,
            lr=multiplier**power * lr,
            decay=lr * weight_decay,
            eps=None if eps is None or gradient_sized(family) else eps / multiplier,
        )


@dataclass(frozen=True)
class Difference:
    """One number that the trainer makes another one of."""

    quantity: str
    weight: str
    ours: float
    theirs: float


@dataclass(frozen=True)
class Export:
    """A file for a trainer, and what is to be known of it."""

    format: str
    text: str
    settings: dict[str, Any]
    """What the file sets, as plain data."""
    notes: tuple[str, ...]
    """What the trainer does differently, and what it has to be given besides; in the file as well."""
    differences: tuple[Difference, ...] = ()
    """The notes' numbers."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


def kind_of(name: str) -> str:
    """`blocks.3.attention.key.weight` is an `attention.key`."""
    return re.sub(r"^blocks\.\d+\.", "", name).removesuffix(".weight")


def in_effect(config: RunConfig, plan: Plan) -> dict[str, InEffect]:
    """`{kind of weight: what it comes to}` of a gpt as this project trains it; blocks are alike."""
    numbers, found = settings(plan, config.hparams), {}
    for name, one in plan.parameters.items():
        if one.role == "vector":
            continue  # norm gains, which every trainer has its own way with
        own, module = numbers.optimizer[name], numbers.module_of(name)
        found[kind_of(name)] = InEffect.of(
            std=numbers.init_std[name] or 0.0,
            multiplier=module.output_multiplier * module.input_multiplier,
            lr=own.lr,
            weight_decay=own.weight_decay,
            eps=own.eps,
            family=own.family,
        )
    return found


def of_gpt(
    section: GPTSection,
    *,
    embedding: InEffect,
    readout: InEffect,
    position: InEffect,
    hidden: InEffect,
    branch: InEffect,
) -> dict[str, InEffect]:
    """`{kind of weight: what it comes to}` under a trainer that starts what adds to the residual stream in its own way.

    Args:
        position: of learned positions, where the section has them.
        hidden: of hidden matrices but those at the end of a branch.
        branch: of these.
    """
    found = {"embedding": embedding, "readout": readout, "attention.out": branch, "up": hidden, "down": branch}
    found |= {f"attention.{name}": hidden for name in ("query", "key", "value")}
    return {**found, "position": position} if section.positions == "learned" else found


def attention_scale(config: RunConfig, plan: Plan) -> float:
    """What q·k is multiplied by, the same in every block."""
    return next(iter(settings(plan, config.hparams).attention.values()))


def compare(
    ours: Mapping[str, InEffect], theirs: Mapping[str, InEffect], scales: tuple[float, float]
) -> tuple[Difference, ...]:
    """Every number that differs.

    Args:
        scales: of q·k, ours and theirs.
    """
    words = {
        "init": "initial std in effect",
        "lr": "peak lr in effect",
        "decay": "lr × weight decay",
        "eps": "ε in effect",
    }
    found = [
        Difference(words[field], weight, getattr(one, field), getattr(theirs[weight], field))
        for field in words
        for weight, one in ours.items()
        if weight in theirs  # another model, written by force, may lack some
        and getattr(one, field) is not None
        and not same(getattr(one, field), getattr(theirs[weight], field))
    ]
    if not same(*scales):
        found.append(Difference("scale", "q·k", *scales))
    return tuple(found)


def same(one: float, other: float) -> bool:
    """Equal but for rounding."""
    return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=0.0)


def in_words(trainer: str, differences: Iterable[Difference]) -> list[str]:
    """A line per quantity: every weight that differs, with our number and the trainer's."""
    grouped: dict[str, list[str]] = {}
    for one in differences:
        grouped.setdefault(one.quantity, []).append(f"{one.weight} {one.ours:.4g} → {one.theirs:.4g}")
    return [f"{quantity}, mutransfer → {trainer}: {', '.join(lines)}" for quantity, lines in grouped.items()]


def require_gpt(config: RunConfig, trainer: str, optimizers: tuple[str, ...], schedules: tuple[str, ...]) -> GPTSection:
    """The model, where the trainer has words for the config at all.

    Raises:
        UsageError: it has none; the message says for what.
    """
    section, hparams = config.model, config.hparams
    why = ""
    if not isinstance(section, GPTSection):
        raise UsageError(
            f"{config.name}: {trainer} cannot express model.kind {section.kind}: it trains Transformers of kind gpt"
        )
    if config.parametrization != "mup":
        why = f"parametrization {config.parametrization}: only mup is meant to be carried to another width"
    elif hparams.optimizer not in optimizers:
        why = f"hparams.optimizer {hparams.optimizer}: of ours it has {', '.join(optimizers)}, with the same meaning"
    elif hparams.schedule not in schedules:
        why = f"hparams.schedule {hparams.schedule}: it has {', '.join(schedules)}"
    elif config.rules.depth is not None and config.rules.depth.base_depth != section.depth:
        why = "rules.depth: it has no multipliers for residual branches"
    if why:
        raise UsageError(f"{config.name}: {trainer} cannot express {why}")
    return section


def choices(section: GPTSection) -> dict[str, str]:
    """`{our field as the trainers have it: what that is}` of what no export has words for yet."""
    found = {}
    if section.norm != "layernorm":
        found["model.norm: layernorm"] = "LayerNorm"
    if section.mlp != "gelu":
        found["model.mlp: gelu"] = "feed-forward layers of two matrices around a gelu"
    if section.kv_heads_at(section.width) != section.heads_at(section.width):
        field = "kv_group" if section.kv_heads is None else "kv_heads"
        found[f"no model.{field}"] = "a key and a value per head"
    if section.qk_norm:
        found["model.qk_norm: false"] = "queries and keys without a norm"
    return found


def origin(config: RunConfig) -> str:
    """Where the hparams come from, for a file's heading."""
    source = config.provenance
    if source is None:
        return f"{config.name}; its hparams as they stand in the config, no sweep is on record for them"
    return f"{config.name}; hparams of trial {source.trial} of {source.study}, found at width {source.proxy_width}"


def commented(heading: Iterable[str], lines: Iterable[str]) -> str:
    """The text of a file: `heading` as comments, then `lines`."""
    return "".join(f"{line}\n" for line in (*(f"# {line}" for line in heading), *lines))


def short(value: float) -> str:
    """A number with the digits that matter and no more."""
    return f"{value:.10g}"
