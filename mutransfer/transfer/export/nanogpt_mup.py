"""nanoGPT-mup's config, as of EleutherAI/nanoGPT-mup b2a5e60 (June 2025), whose model.py and train.py are its docs."""

from __future__ import annotations

import math
from typing import Any

from mutransfer.config.models import GPTSection
from mutransfer.config.schema import RunConfig
from mutransfer.errors import UsageError
from mutransfer.models import plan_of
from mutransfer.parametrization.plan import Plan
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

_EPS = 1e-8  # torch's default, which it keeps


def export(config: RunConfig, *, force: bool = False) -> Export:
    """A file for `python train.py FILE`, notes as comments.

    Raises:
        UsageError: nanoGPT-mup has no setting for something in the config, or builds another model and `force` is
            false.
    """
    section = require_gpt(config, "nanoGPT-mup", ("adamw", "adam"), ("constant", "cosine"))
    other = _other_model(section)
    if other and not force:
        always = " and ".join(f"{what} ({field})" for field, what in other.items())
        raise UsageError(
            f"{config.name}: nanoGPT-mup always has {always}, and hparams belong to the model that they were tuned "
            "on: sweep a proxy like that, or write the file all the same with --force"
        )
    plan = plan_of(config)
    values = values_of(config, section, plan)
    differences = compare(
        in_effect(config, plan), theirs(values, section), (attention_scale(config, plan), attention_of(values))
    )
    notes = [*(f"another model than the proxy: nanoGPT-mup always has {what}" for what in other.values()),
             *_notes(config, section, plan, values, differences)]  # fmt: skip
    heading = [f"nanoGPT-mup config of {origin(config)}.", "python train.py THIS_FILE --dataset=…", *notes]
    lines = [f"{name} = {_text(value)}" for name, value in values.items()]
    return Export("nanogpt-mup", commented(heading, lines), values, tuple(notes), differences)


def _other_model(section: GPTSection) -> dict[str, str]:
    """`{our field: what nanoGPT-mup has whatever it says}`, where that is something else."""
    found = {}
    if not section.tied_embeddings:
        found["model.tied_embeddings: true"] = "tied embeddings"
    if section.positions != "learned":
        found["model.positions: learned"] = "learned positions"
    if section.mlp_ratio != 4:
        found["model.mlp_ratio: 4"] = "feed-forward layers of 4 × the width"
    return {**found, **choices(section)}


def values_of(config: RunConfig, section: GPTSection, plan: Plan) -> dict[str, Any]:
    """The config's variables."""
    hparams, training = config.hparams, config.training
    numbers = settings(plan, hparams)
    lr = hparams.lr * plan.options.lr_factor
    std = hparams.init_scale / math.sqrt(section.base_width)
    head_dim = section.head_dim_at(section.width)
    scale = attention_scale(config, plan)
    nearer_root = abs(math.log(scale * math.sqrt(head_dim))) < abs(math.log(scale * head_dim))
    final = 1.0 if hparams.schedule == "constant" else float(hparams.resolved("final_lr"))
    return {
        "n_layer": section.depth,
        "n_head": section.width // head_dim,
        "n_embd": section.width,
        "block_size": config.data.sequence_length or 1024,
        "dropout": 0.0,
        "bias": False,
        "init_std": std,
        "mup_enabled": True,
        "mup_disable_attention_scaling": nearer_root,
        "mup_disable_hidden_lr_scaling": False,
        "mup_width_multiplier": plan.width_multiplier,
        "mup_input_alpha": in_effect(config, plan)["embedding"].init / std,
        "mup_output_alpha": 1.0 / hparams.temperature,
        "learning_rate": lr,
        "decay_lr": True,
        "warmup_iters": round(hparams.warmup * training.steps),
        "lr_decay_iters": training.steps,
        "min_lr": lr * final,
        "max_iters": training.steps,
        "weight_decay": numbers.optimizer["blocks.0.attention.key.weight"].weight_decay,
        "beta1": hparams.resolved("beta1"),
        "beta2": hparams.resolved("beta2"),
        "grad_clip": hparams.clip or 0.0,
        "batch_size": training.batch_size,
        "gradient_accumulation_steps": 1,
        "eval_iters": training.eval_batches,
        "seed": training.seed,
        "dtype": "bfloat16" if training.precision == "bf16" else "float32",
        "compile": training.compile,
    }


def attention_of(values: dict[str, Any]) -> float:
    """What nanoGPT-mup multiplies q·k by: 1/d_head, or 1/√d_head where its µP scaling is off."""
    head_dim = values["n_embd"] / values["n_head"]
    return float(head_dim ** (-0.5 if values["mup_disable_attention_scaling"] else -1.0))


def theirs(values: dict[str, Any], section: GPTSection) -> dict[str, InEffect]:
    """What nanoGPT-mup makes of the values, once its train.py hands init_std on."""
    m, std, lr = values["mup_width_multiplier"], values["init_std"], values["learning_rate"]

    def weight(initial: float, multiplier: float, own_lr: float) -> InEffect:
        return InEffect.of(std=initial, multiplier=multiplier, lr=own_lr, weight_decay=values["weight_decay"],
                           eps=_EPS, family="adam")  # fmt: skip

    return of_gpt(
        section,
        embedding=weight(std, values["mup_input_alpha"], lr),
        readout=weight(std, values["mup_output_alpha"] / m, lr),
        position=weight(std, values["mup_input_alpha"], lr),
        hidden=weight(std / math.sqrt(m), 1.0, lr / m),
        branch=weight(std / math.sqrt(2 * values["n_layer"] * m), 1.0, lr / m),
    )


def _notes(
    config: RunConfig, section: GPTSection, plan: Plan, values: dict[str, Any], differences: tuple[Difference, ...]
) -> list[str]:
    m, hparams = plan.width_multiplier, config.hparams
    notes = in_words("nanoGPT-mup", differences)
    if hparams.weight_decay and m != 1:
        notes.append(
            f"nanoGPT-mup leaves weight decay unscaled: {short(values['weight_decay'])} is what the hidden matrices "
            f"need for λ = {hparams.weight_decay:g} at base width, and the embedding gets it too"
        )
    if values["init_std"] != 0.02:
        notes.append(
            "its train.py does not hand init_std to the model (b2a5e60), which then starts with 0.02: add "
            "init_std=init_std to model_args there; the numbers above take that as done"
        )
    if hparams.schedule == "constant":
        notes.append("a constant lr is min_lr = learning_rate: decay_lr = False would leave out the warmup")
    if values["warmup_iters"]:
        notes.append(LATE_WARMUP)
    if not section.norm_gain:
        notes.append("its norms have gains that are trained; the proxy's had none")
    notes.append("not in this file: dataset (its vocabulary comes from meta.pkl, else 50304), intervals, out_dir")
    return notes


def _text(value: Any) -> str:
    if isinstance(value, float):
        text = short(value)
        return text if any(mark in text for mark in ".en") else f"{text}.0"
    return repr(value)
