"""A pack: runs that differ in hparams and seed only, trained as one program under `torch.func.vmap`.

Shapes: N members; every parameter, buffer and optimizer state is stacked to (N, …). Members never meet in a
computation, so that a NaN in one stays there, and a member's losses equal those of its solo run up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mutransfer.config.schema import RunConfig
from mutransfer.data.dataset import Array, Batch
from mutransfer.errors import UsageError
from mutransfer.models import build_model, plan_of
from mutransfer.training.graphs import Compute, Gradients, Graphed
from mutransfer.training.kernels import PackedKernels
from mutransfer.training.learner import mean_losses, precision, start_at
from mutransfer.training.loss import Tensors, inputs_of, loss_of, losses_of, to_device, wide
from mutransfer.training.pack_optimizers import pack_optimizer
from mutransfer.training.schedules import Schedule


class CannotPack(UsageError):
    """The runs cannot train as one program; the message says why."""


class PackLearner:
    """`training.learner.Learner` for several runs at once; losses are (N,)."""

    def __init__(self, configs: Sequence[RunConfig], device: torch.device, *, graphs: bool = True) -> None:
        """Build and stack the members; with `graphs`, a GPU computes gradients by a CUDA graph.

        Raises:
            CannotPack: the configs differ in more than hparams and seed or in the optimizer, or ask for torch.compile.
        """
        _require_alike(configs)
        self.config, self.device, self._graphs = configs[0], device, graphs
        self._computes: dict[bool, Compute] = {}
        self._members = list(configs)
        self.plan = plan_of(self.config)
        with device:
            self._template = build_model(self.config.model, self.config.data.spec)
        self._parameters, self._buffers = self._stack()
        self._set_hparams()
        self._optimizer = pack_optimizer(self._template, self._trained, self.plan, [one.hparams for one in configs])
        self._kernels = PackedKernels()

    def train_step(self, step: int, batches: Sequence[Batch]) -> Tensor:
        """One update of every member at `step` (from 0); the losses (N,) before it, not waited for.

        Args:
            batches: one that all members share, or one each.
        """
        inputs, targets = self._on_device(batches)
        losses, grads = self._gradients(shared=len(batches) == 1)(inputs, targets)
        found = {name: grad for name, grad in zip(self._trained, grads, strict=True) if grad is not None}
        with torch.no_grad():
            self._clip(found)
            factors = [schedule.factor(step) for schedule in self._schedules]
            self._optimizer.step(found, [factors[which] for which in self._schedule_of])
        return losses

    def _gradients(self, *, shared: bool) -> Compute:
        """What computes losses (N,) and gradients of a batch on the device, one for all members or one each."""
        if shared not in self._computes:

            def compute(inputs: Tensors, targets: Tensor) -> Gradients:
                losses = self._losses(inputs, targets, shared=shared, train=True)
                grads = torch.autograd.grad(losses.sum(), list(self._trained.values()), allow_unused=True)
                return losses.detach(), list(grads)

            graphed = self._can_graph()
            self._computes[shared] = Graphed(compute, list(self._buffers.values())) if graphed else compute
        return self._computes[shared]

    @property
    def _trained(self) -> dict[str, Tensor]:
        """The stacked parameters that are not frozen."""
        return {name: parameter for name, parameter in self._parameters.items() if parameter.requires_grad}

    def _can_graph(self) -> bool:
        return self._graphs and self.device.type == "cuda"

    def _set_hparams(self) -> None:
        """The parts of the members' hparams that a step needs: the distinct schedules (mostly one) and which of them
        each member has, and the clipping thresholds (N,)."""
        clips = [config.hparams.clip for config in self._members]
        limits = [math.inf if clip is None else clip for clip in clips]
        dtype = next(iter(self._parameters.values())).dtype
        self._clips = torch.tensor(limits, dtype=dtype, device=self.device) if any(clips) else None
        own = [Schedule.of(config.hparams, config.training.steps) for config in self._members]
        self._schedules = list(dict.fromkeys(own))
        self._schedule_of = [self._schedules.index(schedule) for schedule in own]

    def evaluate(self, batches: Iterable[Batch]) -> list[float]:
        """As `mean_losses`, for every member on the same batches."""

        def losses(batch: Batch) -> Tensor:
            return self._losses(*self._on_device([batch]), shared=True, train=False)

        total = torch.zeros(len(self._members), device=self.device)
        return mean_losses(self._template, self.config, batches, losses, total)

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these members only (positions among the present ones)."""
        index = torch.tensor(members, device=self.device)
        self._members = [self._members[member] for member in members]
        self._set_hparams()
        self._parameters = {
            name: one.detach().index_select(0, index).requires_grad_(one.requires_grad)
            for name, one in self._parameters.items()
        }
        self._buffers = {name: one.index_select(0, index) for name, one in self._buffers.items()}
        self._computes.clear()  # graphs of tensors that no longer exist
        self._optimizer.keep(members, self._trained)

    def member(self, index: int) -> nn.Module:
        """One member as a model by itself; the next call changes it."""
        with torch.no_grad():
            for name, parameter in self._template.named_parameters():
                parameter.copy_(self._parameters[name][index])
            for name, buffer in self._template.named_buffers():
                buffer.copy_(self._buffers[name][index])
        return self._template

    def _stack(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Every member's initial state, made on the one template in turn."""
        parameters: dict[str, list[Tensor]] = {}
        buffers: dict[str, list[Tensor]] = {}
        for config in self._members:
            start_at(self._template, self.plan, config)
            for name, parameter in self._template.named_parameters():
                parameters.setdefault(name, []).append(parameter.detach().clone())
            for name, buffer in self._template.named_buffers():
                buffers.setdefault(name, []).append(buffer.detach().clone())
        trained = {name for name, parameter in self._template.named_parameters() if parameter.requires_grad}
        stacked = {name: torch.stack(own).requires_grad_(name in trained) for name, own in parameters.items()}
        return stacked, {name: torch.stack(own) for name, own in buffers.items()}

    def _on_device(self, batches: Sequence[Batch]) -> tuple[Tensors, Tensor]:
        """Inputs and targets, stacked where there is a batch for each member."""
        inputs = tuple(to_device(_joined(arrays), self.device) for arrays in zip(*map(inputs_of, batches), strict=True))
        return inputs, to_device(_joined([batch[1] for batch in batches]), self.device)

    def _losses(self, inputs: Tensors, targets: Tensor, *, shared: bool, train: bool) -> Tensor:
        loss = self.config.model.criterion

        def outputs(parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Any, targets: Any) -> Tensor:
            def forward(*given: Tensor) -> Tensor:
                found: Tensor = functional_call(self._template, (parameters, buffers), given)
                return found

            if loss.kind == "returned":
                return loss_of(forward, loss, inputs, targets, train=train)
            return forward(*inputs)

        of_batch = None if shared else 0
        with self._kernels, precision(self.config, self.device):
            try:
                stacked = vmap(outputs, in_dims=(0, 0, of_batch, of_batch), randomness="error")(
                    self._parameters, self._buffers, inputs, targets
                )
            except RuntimeError as error:
                if "vmap" not in str(error):
                    raise
                # This is a property of the model: a retry, or another trial, would end the same way.
                why = str(error).split(". ")[0]
                raise CannotPack(
                    f"the model has an operation that packs cannot take ({why}); --pack 1 trains one by one"
                ) from error
            if loss.kind == "returned":
                return wide(stacked)
            if shared:
                targets = targets.expand(len(self._members), *targets.shape)
            return losses_of(stacked, targets, loss, train=train)

    def _clip(self, grads: dict[str, Tensor]) -> None:
        """torch.nn.utils.clip_grad_norm_ for every member by itself."""
        if self._clips is None:
            return
        squares = [torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads.values()]
        norm = torch.linalg.vector_norm(torch.stack(squares), dim=0)
        factor = torch.clamp(self._clips / (norm + 1e-6), max=1.0)
        for grad in grads.values():
            grad.mul_(factor.view(-1, *[1] * (grad.dim() - 1)))


def _joined(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.stack(arrays)


def _require_alike(configs: Sequence[RunConfig]) -> None:
    def apart_from_hparams(config: RunConfig) -> RunConfig:
        training = config.training.model_copy(update={"seed": 0})
        hparams = type(config.hparams)(optimizer=config.hparams.optimizer)
        return config.model_copy(update={"training": training, "hparams": hparams, "search": None})

    first = apart_from_hparams(configs[0])
    if any(apart_from_hparams(config) != first for config in configs[1:]):
        raise CannotPack("the runs differ in more than hparams and seed, or in the optimizer")
    record = first.hparams.record
    if record.pack is None:
        raise CannotPack(f"optimizer {record.name} has no update for packs")
    if first.training.compile:
        raise CannotPack("training.compile compiles one run")
