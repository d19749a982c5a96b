"""The training step: model, optimizer and schedule of one run, updated by one batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mutransfer.config.schema import RunConfig
from mutransfer.data.dataset import Batch
from mutransfer.models import build_model, plan_of
from mutransfer.parametrization.apply import initialize
from mutransfer.parametrization.plan import Plan
from mutransfer.training.loss import counted, inputs_of, loss_of, no_targets, to_device
from mutransfer.training.optimizers import Together, build_optimizer, set_lr
from mutransfer.training.schedules import Schedule


class Learner:
    """Everything that a training step reads or writes, built from a config and nothing else."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.plan = plan_of(config)
        with device:
            self.model = build_model(config.model, config.data.spec)
        start_at(self.model, self.plan, config)
        self._forward: Any = torch.compile(self.model) if config.training.compile else self.model
        self._schedule = Schedule.of(config.hparams, config.training.steps)
        self._parameters = list(self.model.parameters())

    def train_step(self, step: int, batch: Batch) -> Tensor:
        """One update at `step` (from 0); the loss before it, on the device and without waiting for it."""
        set_lr(self.optimizer, self._schedule.factor(step))
        if self.config.model.foreign:  # random draws are a function of seed and step, so that resuming is exact
            torch.manual_seed(hash((self.config.training.seed, step)))
        loss = self.gradients(batch)
        if self.config.hparams.clip is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.config.hparams.clip)
        self.optimizer.step()
        return loss

    @functools.cached_property
    def optimizer(self) -> torch.optim.Optimizer | Together:
        """Made at first use: torch's optimizers import the compiler, which takes a second."""
        return build_optimizer(self.model, self.plan, self.config.hparams)

    def gradients(self, batch: Batch) -> Tensor:
        """Give every parameter its gradient; the loss."""
        loss = self._loss(batch, train=True)
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def evaluate(self, batches: Iterable[Batch]) -> float:
        """As `mean_losses`, for one run."""
        total = torch.zeros(1, device=self.device)
        return mean_losses(self.model, self.config, batches, lambda batch: self._loss(batch, train=False), total)[0]

    def state_dict(self) -> dict[str, Any]:
        """Model and optimizer state."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state that `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _loss(self, batch: Batch, *, train: bool) -> Tensor:
        inputs = tuple(to_device(array, self.device) for array in inputs_of(batch))
        targets = to_device(batch[1], self.device)
        with precision(self.config, self.device):
            return loss_of(self._forward, self.config.model.criterion, inputs, targets, train=train)


def mean_losses(
    model: nn.Module, config: RunConfig, batches: Iterable[Batch], loss: Callable[[Batch], Tensor], total: Tensor
) -> list[float]:
    """Mean loss per target over `batches`, without a gradient.

    Args:
        loss: gives the losses of a batch, one per run; they are summed in `total` (N,), which starts as zeros.

    Raises:
        DataError: none of the batches has a target that counts.
    """
    model.eval()
    count = 0
    with torch.no_grad():
        for batch in batches:
            targets = counted(batch, config.model.criterion)
            if targets:  # without targets the mean is NaN
                total += loss(batch) * targets
                count += targets
    model.train()
    if not count:
        raise no_targets(config, "the validation part")
    return [value / count for value in total.tolist()]


def start_at(model: nn.Module, plan: Plan, config: RunConfig) -> None:
    """Give a model the initial weights and the forward multipliers of a run."""
    initialize(model, plan, seed=config.training.seed, hparams=config.hparams)


def precision(config: RunConfig, device: torch.device) -> torch.autocast:
    """The context of `training.precision`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.training.precision == "bf16")


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device's or the machine's memory did not suffice."""
    # torch's CPU allocator raises a plain RuntimeError
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
