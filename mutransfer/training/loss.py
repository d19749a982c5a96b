"""The loss of a model's outputs and a batch's targets, for one run and for a pack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mutransfer.config.models import Loss
from mutransfer.config.schema import RunConfig
from mutransfer.data.dataset import IGNORED, Array, Batch
from mutransfer.errors import DataError

Tensors = tuple[Tensor, ...]

_FEW_CLASSES = 32


def loss_of(forward: Callable[..., Any], loss: Loss, inputs: Tensors, targets: Tensor, *, train: bool) -> Tensor:
    """Mean loss over all targets that count, in nats for cross entropy; computed in fp32 at least.

    Args:
        forward: called with the inputs, and with the targets too where the model returns its loss itself.
        train: whether to smooth labels; validation never does.
    """
    if loss.kind == "returned":
        return wide(forward(*inputs, targets))
    outputs = wide(forward(*inputs))
    if loss.kind == "mse":
        return F.mse_loss(outputs, targets)
    return _cross_entropy(outputs[None], targets[None], loss, train=train, reduction="mean")


def losses_of(outputs: Tensor, targets: Tensor, loss: Loss, *, train: bool) -> Tensor:
    """`loss_of` for N runs: outputs (N, …) and targets (N, …) → (N,); not for losses that the model returns."""
    outputs = wide(outputs)
    if loss.kind == "mse":
        return F.mse_loss(outputs, targets, reduction="none").flatten(1).mean(1)
    each = _cross_entropy(outputs, targets, loss, train=train, reduction="none")
    if not loss.ignores:
        return each.mean(1)
    return each.sum(1) / (targets != IGNORED).flatten(1).sum(1)


def _cross_entropy(outputs: Tensor, targets: Tensor, loss: Loss, *, train: bool, reduction: str) -> Tensor:
    """Of N runs: outputs (N, …, C) and targets (N, …) → (N, rows), or their mean."""
    rows, classes = outputs.flatten(1, -2), targets.flatten(1)
    if rows.shape[-1] <= _FEW_CLASSES:  # torch takes one row at a time over the last dimension, over another many
        rows = rows.mT.contiguous()
    else:
        rows, classes = rows.flatten(0, 1), classes.flatten()
    losses = F.cross_entropy(
        rows,
        classes,
        ignore_index=IGNORED,
        label_smoothing=loss.label_smoothing if train else 0.0,
        reduction=reduction,
    )
    return losses if reduction == "mean" else losses.view(len(outputs), -1)


def wide(outputs: Tensor) -> Tensor:
    """Half precision made fp32; fp32 and fp64 as they are."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs


def counted(batch: Batch, loss: Loss) -> int:
    """How many targets of a batch the mean runs over."""
    targets = batch[1]
    return int(np.count_nonzero(targets != IGNORED)) if loss.ignores else int(targets.size)


def no_targets(config: RunConfig, what: str) -> DataError:
    """The error for a mean over no targets of `what`, such as "the validation part"."""
    return DataError(
        f"{config.data.label}: {what} has no target that counts: "
        f"all are {IGNORED}, which says that there is nothing to predict, and so there is no loss; leave such "
        "examples out, or take more of them at once (training.batch_size)"
    )


def inputs_of(batch: Batch) -> tuple[Array, ...]:
    """The arrays that the model is called with."""
    return batch[0] if isinstance(batch[0], tuple) else (batch[0],)


def to_device(array: Array, device: torch.device) -> Tensor:
    """The array on the device; on a GPU without waiting for the copy."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
