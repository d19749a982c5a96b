"""Tries a foreign model before anything starts: builds it, plans it, trains it for one step, evaluates and saves it.

An error in the user's code, or in a package, is then one message, before any folder, study or trial is made.
"""

from __future__ import annotations

import pkgutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model
from torch import Tensor, nn

from mutransfer.config.factory import said
from mutransfer.config.schema import RunConfig
from mutransfer.data import load_data
from mutransfer.data.dataset import IGNORED, Array, Batch, Dataset
from mutransfer.errors import MutransferError, UsageError
from mutransfer.models import build_model, plan_of
from mutransfer.parametrization.facts import facts_of
from mutransfer.parametrization.settings import is_bias, is_norm_gain
from mutransfer.training.checkpoint import save_weights
from mutransfer.training.learner import start_at
from mutransfer.training.loss import counted, inputs_of, loss_of, no_targets
from mutransfer.training.optimizers import build_optimizer

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
        ("attention_temperature", "attention", plan.attention),
        ("relative_scale", "relative", plan.relative),
        ("position_scale", "positions", facts.positions),
    ):
        if not named:
            _refuse(config, name, config.model.lacks.get(field, f"the model names no modules in ModelFacts.{field}"))
    for name, has, what in (("bias_lr", is_bias, "biases"), ("norm_gain_lr", is_norm_gain, "trainable norm gains")):
        if not any(has(parameter, one) for parameter, one in plan.parameters.items()):
            _refuse(config, name, f"the model has no {what}")
    first = data.batch(0, batch_size=_EXAMPLES, seed=0)
    _require_shapes(small, model, first, getattr(data, "targets", first[1]))
    loss = _loss(small, model, first, label)
    if loss.ndim != 0 or not loss.requires_grad:
        what = f"of shape {tuple(loss.shape)}" if loss.ndim else "that depends on no parameter"
        raise UsageError(f"{label}: gives a loss {what}; a single number that can be differentiated is needed")
    _require_targets(config, data)
    with _as_one_message(f"{label}: one step of training raised"):
        loss.backward()  # type: ignore[no-untyped-call]
        build_optimizer(model, plan_of(small), small.hparams).step()
    model.eval()
    with torch.no_grad():
        for batch in data.validation(batch_size=_EXAMPLES, batches=1):
            _loss(small, model, batch, label)
    with _as_one_message(f"{label}: saving and loading its weights raised"), tempfile.TemporaryDirectory() as folder:
        save_weights(Path(folder) / "model.safetensors", model)
        load_model(model, str(Path(folder) / "model.safetensors"))


@contextmanager
def _as_one_message(what: str) -> Iterator[None]:
    try:
        yield
    except MutransferError:
        raise
    except Exception as error:
        raise UsageError(f"{what} {said(error)}") from error


def _require_shapes(config: RunConfig, model: nn.Module, batch: Batch, every_target: Array) -> None:
    """Refuse outputs and targets that broadcast, or that line up by chance, into a loss of something else."""
    loss, label = config.model.criterion, config.model.label
    if loss.kind == "returned":
        return
    inputs = tuple(map(torch.from_numpy, inputs_of(batch)))
    with _as_one_message(f"{label}: {_cannot_train(batch)}:"), torch.no_grad():
        outputs = model(*inputs)
    shape, wanted = tuple(outputs.shape), tuple(batch[1].shape)
    if loss.kind == "mse":
        if shape != wanted:
            raise UsageError(
                f"{label}: gives outputs of shape {shape}, and the targets have shape {wanted}, so that they would be "
                "broadcast against each other; with loss mse both need the same shape"
            )
        return
    classes = shape[-1] if shape else 0
    if shape[:-1] != wanted or _has_classes_first(model, inputs, shape):
        first = " (they seem to be the second dimension: transpose the outputs)" if len(shape) > 2 else ""
        raise UsageError(
            f"{label}: outputs of shape {shape} do not fit targets of shape {wanted}; with loss cross_entropy they "
            f"need the targets' shape and the classes as their last dimension{first}"
        )
    wrong = np.argwhere((every_target != IGNORED) & ((every_target < 0) | (every_target >= classes)))
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise UsageError(
            f"{config.data.label}: the target in row {place[0]} is {every_target[place]}, but {label} gives {classes} "
            f"classes, 0 to {classes - 1} ({IGNORED} marks a target that does not count)"
        )


def _has_classes_first(model: nn.Module, inputs: tuple[Tensor, ...], shape: tuple[int, ...]) -> bool:
    """Whether outputs with as many positions as classes have them in the other order, seen from a shorter example."""
    if len(shape) != 3 or shape[1] != shape[2]:
        return False
    shorter = tuple(one[:, :-1] if one.ndim > 1 and one.shape[1] == shape[1] else one for one in inputs)
    try:
        with torch.no_grad():
            found = tuple(model(*shorter).shape)
    except Exception:  # a model for one length only, which shows nothing
        return False
    return found == (shape[0], shape[1], shape[2] - 1)


def _loss(config: RunConfig, model: nn.Module, batch: Batch, label: str) -> Tensor:
    """The loss of one batch; any error on the way becomes one message."""
    with _as_one_message(f"{label}: {_cannot_train(batch)}:"):
        inputs = tuple(map(torch.from_numpy, inputs_of(batch)))
        return loss_of(model, config.model.criterion, inputs, torch.from_numpy(batch[1]), train=True)


def _cannot_train(batch: Batch) -> str:
    inputs = ", ".join(f"{one.shape} {one.dtype}" for one in inputs_of(batch))
    return f"cannot be trained on this data (inputs {inputs}, targets {batch[1].shape} {batch[1].dtype})"


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
