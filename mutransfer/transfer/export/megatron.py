"""Megatron-LM's µP flags, as of NVIDIA/Megatron-LM d98e8a6 (August 2026).

What it does with them is documented in its megatron/core/transformer/transformer_config.py (`mup_*`, init methods),
megatron/core/optimizer/__init__.py (`get_mup_config_overrides`) and megatron/core/models/gpt/gpt_model.py.
"""

from __future__ import annotations

import math
from typing import Any

from mutransfer.config.models import GPTSection
from mutransfer.config.schema import RunConfig
from mutransfer.errors import UsageError
from mutransfer.models import plan_of
from mutransfer.optimizers.base import OptimizerFamily
from mutransfer.parametrization.plan import Plan
from mutransfer.parametrization.rules import gradient_sized
from mutransfer.parametrization.settings import settings
from mutransfer.transfer.export.base import (
    LATE_WARMUP,
    Difference,
    Export,
    InEffect,
    attention_scale,
    choices,
    commented,
    compare,
    in_effect,
    in_words,
    of_gpt,
    origin,
    require_gpt,
    short,
)

_SCHEDULES = {"constant": "constant", "linear": "linear", "cosine": "cosine", "inverse_sqrt": "inverse-square-root"}
# Megatron-LM takes an output multiplier of exactly 1 for one that was not given.
_NEARLY_ONE = 1.0 - 1e-7


def export(config: RunConfig, *, force: bool = False) -> Export:
    """Flags for pretrain_gpt.py, a line each, notes as comments.

    Raises:
        UsageError: Megatron-LM has no flags for something in the config.
    """
    del force  # it builds the same model, or cannot be used at all
    section = require_gpt(config, "Megatron-LM", ("adamw", "adam", "sgd"), tuple(_SCHEDULES))
    other = choices(section)
    if section.positions == "relative":
        other = {"model.positions: rotary or learned": "positions that are rotary or learned", **other}
    if other:
        given = " and ".join(f"{what} ({field})" for field, what in other.items())
        raise UsageError(
            f"{config.name}: this export of Megatron-LM is for models with {given}, and hparams belong to the model "
            "that they were tuned on: sweep a proxy like that, or take --format json"
        )
    plan = plan_of(config)
    flags = flags_of(config, section, plan)
    differences = compare(
        in_effect(config, plan),
        theirs(flags, section, config.hparams.record.family),
        (attention_scale(config, plan), attention_of(flags)),
    )
    notes = _notes(config, section, plan, flags, differences)
    heading = [f"Megatron-LM flags of {origin(config)}.", "pretrain_gpt.py $(grep -v '^#' THIS_FILE) …", *notes]
    lines = [f"--{name}" + ("" if value is True else f" {_text(value)}") for name, value in flags.items()]
    return Export("megatron", commented(heading, lines), flags, tuple(notes), differences)


def flags_of(config: RunConfig, section: GPTSection, plan: Plan) -> dict[str, Any]:
    """`{flag: value}`, True for flags that take none."""
    hparams, training = config.hparams, config.training
    numbers = settings(plan, hparams)
    hidden, own = numbers.optimizer["blocks.0.attention.key.weight"], numbers.optimizer["embedding.weight"]
    # Megatron-LM's --lr is that of embedding and readout; hidden matrices get it over m (Adam) or as it is (SGD).
    lr = hparams.lr * plan.options.lr_factor
    m, sgd = plan.width_multiplier, gradient_sized(hparams.record.family)
    table = own.lr / (lr * (m if sgd else 1.0))  # what embedding_lr and its like come to
    tied = section.tied_embeddings
    # Untied, an own lr of the embedding becomes a multiplier: θ × output, std / θ, lr / θ (Adam) or θ² (SGD).
    theta = 1.0 if tied else (math.sqrt(table) if sgd else table)
    std = numbers.init_std["embedding.weight"] or 0.0
    # Readout and embedding start with one std there: a small one, for the logits, and embeddings get theirs back by a
    # multiplier. (Width 256 of configs/proxy.yaml, 300 steps: 1.83 nats; 2.17 with the std of the embedding for both;
    # 1.76 with ours.)
    root = math.sqrt(section.base_width)
    output = 1.0 / (m * hparams.temperature)
    flags: dict[str, Any] = {
        "num-layers": section.depth,
        "hidden-size": section.width,
        "ffn-hidden-size": section.mlp_ratio * section.width,
        "num-attention-heads": section.width // section.head_dim_at(section.width),
        "kv-channels": section.head_dim_at(section.width),
        "seq-length": config.data.sequence_length,
        "max-position-embeddings": config.data.sequence_length,
        "position-embedding-type": "rope" if section.positions == "rotary" else "learned_absolute",
        "disable-bias-linear": True,
        "hidden-dropout": 0.0,
        "attention-dropout": 0.0,
        "use-mup": True,
        "mup-base-hidden-size": section.base_width,
        "mup-base-head-dim": section.head_dim_at(section.base_width) / hparams.attention_temperature**2,
        "mup-attn-scale-power": 1.0,
        "mup-embedding-mult": theta * root * hparams.embedding_scale,
        "mup-output-mult": _NEARLY_ONE if output == 1.0 != m else output,
        "init-method-std": hparams.init_scale / root,
        "embedding-init-method-std": std if tied else std / (theta * root),
        "optimizer": "sgd" if sgd else "adam",
        "lr": lr,
        **_schedule(config, lr),
        "weight-decay": hidden.weight_decay,
        **(
            {"sgd-momentum": hparams.resolved("momentum")}
            if sgd
            else {
                "adam-beta1": hparams.resolved("beta1"),
                "adam-beta2": hparams.resolved("beta2"),
                "adam-eps": hparams.resolved("eps"),
            }
        ),
        "clip-grad": hparams.clip or 0.0,
        "train-iters": training.steps,
        "global-batch-size": training.batch_size,
        "seed": training.seed,
        "eval-iters": training.eval_batches,
    }
    if not tied:
        flags["untie-embeddings-and-output-weights"] = True
    elif table != 1.0:
        flags["decoupled-lr"] = own.lr
        flags["decoupled-min-lr"] = flags["min-lr"] * own.lr / lr
    if training.precision == "bf16":
        flags["bf16"] = True
    return {name: value for name, value in flags.items() if value is not None}


def _schedule(config: RunConfig, lr: float) -> dict[str, Any]:
    hparams, steps = config.hparams, config.training.steps
    warmup = round(hparams.warmup * steps)
    if warmup >= steps:
        raise UsageError(f"{config.name}: Megatron-LM needs a warmup shorter than the run, but it is all {steps} steps")
    if hparams.schedule == "inverse_sqrt" and not warmup:
        raise UsageError(f"{config.name}: Megatron-LM's inverse-square-root needs hparams.warmup, from which it falls")
    return {
        "lr-decay-style": _SCHEDULES[hparams.schedule],
        "lr-warmup-iters": warmup,
        "lr-decay-iters": steps,
        "min-lr": lr * (hparams.resolved("final_lr") or 0.0),
    }


def attention_of(flags: dict[str, Any]) -> float:
    """What Megatron-LM multiplies q·k by: √mup_base_head_dim / kv_channels^mup_attn_scale_power."""
    return float(math.sqrt(flags["mup-base-head-dim"]) / flags["kv-channels"] ** flags["mup-attn-scale-power"])


def theirs(flags: dict[str, Any], section: GPTSection, family: OptimizerFamily) -> dict[str, InEffect]:
    """What Megatron-LM makes of the flags."""
    m = flags["hidden-size"] / flags["mup-base-hidden-size"]
    sgd = gradient_sized(family)
    table_lr, matrix_lr = (flags["lr"] * m, flags["lr"]) if sgd else (flags["lr"], flags["lr"] / m)
    eps = flags.get("adam-eps")
    hidden = flags["init-method-std"] / math.sqrt(m)
    branch = flags["init-method-std"] / math.sqrt(2 * flags["num-layers"] * m)  # what adds to the residual stream

    def table(multiplier: float, *, decoupled: bool = True) -> InEffect:
        own = flags.get("decoupled-lr", table_lr) if decoupled else table_lr
        return InEffect.of(std=flags["embedding-init-method-std"], multiplier=multiplier, lr=own,
                           weight_decay=flags["weight-decay"], eps=eps, family=family)  # fmt: skip

    def matrix(std: float) -> InEffect:
        return InEffect.of(std=std, multiplier=1.0, lr=matrix_lr, weight_decay=flags["weight-decay"],
                           eps=None if eps is None else eps / m, family=family)  # fmt: skip

    return of_gpt(
        section,
        embedding=table(flags["mup-embedding-mult"]),
        readout=table(flags["mup-output-mult"]),
        position=table(flags["mup-embedding-mult"], decoupled=False),
        hidden=matrix(hidden),
        branch=matrix(branch),
    )


def _notes(
    config: RunConfig, section: GPTSection, plan: Plan, flags: dict[str, Any], differences: tuple[Difference, ...]
) -> list[str]:
    m, hparams = plan.width_multiplier, config.hparams
    notes = in_words("Megatron-LM", differences)
    if hparams.weight_decay and m != 1:
        value, given = short(flags["weight-decay"]), f"{hparams.weight_decay:g}"
        notes.append(
            f"Megatron-LM leaves weight decay unscaled: --weight-decay {value} is what the hidden matrices need for "
            f"λ = {given} at base width, and embedding and readout get it too"
            + (
                ""
                if config.rules.weight_decay == "independent" or gradient_sized(hparams.record.family)
                else f" instead of {given}"
            )
        )
    if not section.tied_embeddings:
        root = math.sqrt(section.base_width)
        start = flags["mup-output-mult"] * flags["embedding-init-method-std"] * math.sqrt(section.width)
        exact = (
            f"--mup-embedding-mult {short(flags['mup-embedding-mult'] / root)} --embedding-init-method-std "
            f"{short(flags['embedding-init-method-std'] * root)}"
        )
        notes.append(
            f"its readout starts with the std of its embedding, so that logits start with one of {start:.3g}; hence an "
            f"embedding std of 1/√base width, and a multiplier. With output_layer.weight set to zero once the model is "
            f"built, {exact} would be the proxy's own in init and lr"
        )
    if hparams.embedding_lr != 1 and not section.tied_embeddings:
        notes.append(
            f"embedding_lr {hparams.embedding_lr:g} has no flag of its own: --mup-embedding-mult and "
            "--embedding-init-method-std have it, which is the same"
        )
    if flags["lr-warmup-iters"]:
        notes.append(LATE_WARMUP)
    notes += [
        "its norms have gains"
        + (" and biases" if section.norm_gain else " and biases that are trained; the proxy's had none"),
        "not in this file: data and tokenizer, micro-batch size, parallelism, intervals of evaluation and checkpoints",
    ]
    return notes


def _text(value: Any) -> str:
    return short(value) if isinstance(value, float) else str(value)
