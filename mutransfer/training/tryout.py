"""Tries a foreign model before anything starts: builds it, plans it, and runs it on one small batch.

An error in the user's code, or in a package, is then one message, before any folder, study or trial is made.
"""

from __future__ import annotations

import pkgutil

import torch
from torch import Tensor, nn

from mutransfer.config.factory import said
from mutransfer.config.schema import RunConfig
from mutransfer.data import load_data
from mutransfer.data.dataset import Batch, Dataset
from mutransfer.errors import MutransferError, UsageError
from mutransfer.models import build_model, plan_of
from mutransfer.parametrization.facts import facts_of
from mutransfer.parametrization.settings import is_bias, is_norm_gain
from mutransfer.training.learner import start_at
from mutransfer.training.loss import counted, inputs_of, loss_of, no_targets

_EXAMPLES = 2


def try_out(config: RunConfig) -> None:
    """Refuse a model of foreign code that cannot be built, planned or run on this config's data; no other is tried.

    It runs at the base width, on the CPU. The data, which only such a model takes from foreign code, has to have
    something to learn in its first batch and something to validate.

    Raises:
        UsageError: the model or its data cannot be used; the message has the place in the user's code.
        DataError: the data gives no batch, or nothing that counts in it.
    """
    if not config.model.foreign:
        return
    plan = plan_of(config)
    if config.model.rehearsal is not None:
        pkgutil.resolve_name(config.model.rehearsal)(config)
    small = config.model_copy(update={"model": config.model.at_width(config.model.base_width), "search": None})
    data = load_data(config.data)
    label = config.model.label
    model = build_model(small.model, small.data.spec)
    start_at(model, plan_of(small), small)
    facts = facts_of(model)
    for name, field, named in (
        ("attention_temperature", "attention", facts.attention),
        ("relative_scale", "relative", facts.relative),
        ("position_scale", "positions", facts.positions),
    ):
        if not named:
            _refuse(config, name, f"the model names no modules in ModelFacts.{field}")
    for name, has, what in (("bias_lr", is_bias, "biases"), ("norm_gain_lr", is_norm_gain, "trainable norm gains")):
        if not any(has(parameter, one) for parameter, one in plan.parameters.items()):
            _refuse(config, name, f"the model has no {what}")
    loss = _loss(small, model, data.batch(0, batch_size=_EXAMPLES, seed=0), label)
    if loss.ndim != 0 or not loss.requires_grad:
        what = f"of shape {tuple(loss.shape)}" if loss.ndim else "that depends on no parameter"
        raise UsageError(f"{label}: gives a loss {what}; a single number that can be differentiated is needed")
    _require_targets(config, data)
    with torch.no_grad():
        for batch in data.validation(batch_size=_EXAMPLES, batches=1):
            _loss(small, model, batch, label)


def _loss(config: RunConfig, model: nn.Module, batch: Batch, label: str) -> Tensor:
    """The loss of one batch; any error on the way becomes one message."""
    targets = batch[1]
    tensors = tuple(torch.from_numpy(array) for array in inputs_of(batch))
    shapes = ", ".join(f"{tuple(one.shape)} {str(one.dtype).removeprefix('torch.')}" for one in tensors)
    try:
        return loss_of(model, config.model.criterion, tensors, torch.from_numpy(targets), train=True)
    except MutransferError:
        raise
    except Exception as error:
        raise UsageError(
            f"{label}: cannot be trained on this data (inputs {shapes}, targets {tuple(targets.shape)} "
            f"{targets.dtype}): {said(error)}"
        ) from error


def _require_targets(config: RunConfig, data: Dataset) -> None:
    """Refuse data that gives nothing to learn in the first step, or nothing to validate at the end."""
    training, loss = config.training, config.model.criterion
    first = data.batch(0, batch_size=training.batch_size, seed=training.seed)
    if loss.kind != "returned" and not counted(first, loss):  # a model's own loss may handle it
        raise no_targets(config, f"the training batch of step 0 (seed {training.seed})")
    batches = data.validation(batch_size=training.batch_size, batches=training.eval_batches)
    if not any(counted(batch, loss) for batch in batches):
        raise no_targets(config, "the validation part")


def _refuse(config: RunConfig, name: str, why: str) -> None:
    """Refuse an hparam that would change nothing, set or swept."""
    swept = config.search is not None and name in config.search.space
    if swept or getattr(config.hparams, name) != type(config.hparams).model_fields[name].default:
        field = f"search.space.{name}" if swept else f"hparams.{name}"
        raise UsageError(f"{field}: has no effect: {why}")
