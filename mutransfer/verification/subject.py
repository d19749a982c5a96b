"""What is checked: something that gives, for a size and a seed, a model which can be trained and looked into.

`ConfigSubject` is a config's model, trained by the project's own training step. `ModuleSubject` is a user's
`nn.Module` factory, parametrized here or by the user's own functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from mutransfer.config.load import first_problem
from mutransfer.config.rules import RulesSection
from mutransfer.config.schema import RunConfig
from mutransfer.data import load_data
from mutransfer.errors import PlanError, UsageError
from mutransfer.models import plan_of
from mutransfer.optimizers import OPTIMIZERS
from mutransfer.parametrization.apply import initialize, parameter_groups
from mutransfer.parametrization.building import ModelFactory, built
from mutransfer.parametrization.facts import ModelFacts, facts_of
from mutransfer.parametrization.plan import Plan, layer_of
from mutransfer.parametrization.roles import plan_for
from mutransfer.parametrization.wrappers import unwrapped
from mutransfer.training.learner import Learner
from mutransfer.training.loss import counted, inputs_of, no_targets
from mutransfer.training.memory import require_memory
from mutransfer.training.optimizers import Together, optimizer_over
from mutransfer.training.tryout import try_out

AXES = ("width", "depth")
FACTORS = (1, 2, 4, 8, 16)
# What the probe may hold: enough for sizes within a percent, little enough that looking costs less than training.
_PROBE_TOKENS, _PROBE_EXAMPLES = 512, 64

ModuleBatch = tuple[Any, Any]


@dataclass(frozen=True)
class Trainee:
    """One model at one size, ready for its first step."""

    model: nn.Module
    probe: Callable[[], Any]
    """Runs the model on the probe batch, which is the same at every size, seed and step."""
    train_step: Callable[[int], Tensor]
    """One update, by its number from 0; gives the loss before it."""
    optimizer: torch.optim.Optimizer | Together
    facts: ModelFacts
    fading: Mapping[str, float]
    """`{inner readout: √m_in}`: layers from the width to a constant size whose output fades like that at init."""


class Subject(Protocol):
    """Where models of every size come from."""

    axis: str
    """What grows: `width` or `depth`."""
    sizes: tuple[int, ...]
    parametrization: str
    """Name of what is checked: `mup`, `sp`, or `own` for the user's own implementation."""
    has_control: bool
    """Whether the same model can be made in `sp`."""

    def trainee(self, size: int, seed: int, parametrization: str) -> Trainee:
        """The model of that size and seed."""

    def plan(self) -> Plan | None:
        """A plan of the largest model, for roles and warnings; None where there is none."""


class ConfigSubject:
    """A config's model on the config's data, trained by `training.learner`.

    The schedule is constant without warmup, so that a few steps move at the config's full lr; fp32, not compiled.
    """

    def __init__(
        self, config: RunConfig, *, sizes: Sequence[int] | None = None, axis: str = "width", device: str = "cpu"
    ) -> None:
        if not config.trainer.inspectable:
            raise UsageError(
                f"{config.name}: the coordinate check cannot look into a {config.model.kind}; use mutransfer "
                "transfer-check, which compares losses only"
            )
        if axis not in AXES:
            raise UsageError(f"axis {axis}: must be {' or '.join(AXES)}")
        if axis not in config.model.model_dump():
            raise UsageError(f"axis {axis}: model kind {config.model.kind} has no {axis}")
        start = config.model.base_width if axis == "width" else 2
        self.axis, self.parametrization = axis, str(config.parametrization)
        self.sizes = _checked_sizes(sizes or [start * factor for factor in FACTORS])
        self.has_control = self.parametrization != "sp"
        self.config, self._device = config, torch.device(device)
        for size in self.sizes:
            self._at(size, 0, self.parametrization)
        require_memory(self._at(self.sizes[-1], 0, self.parametrization), device)
        try_out(config)

    def trainee(self, size: int, seed: int, parametrization: str) -> Trainee:
        """See `Subject`."""
        config = self._at(size, seed, parametrization)
        data, training = load_data(config.data), config.training
        learner = Learner(config, self._device)
        length = config.data.sequence_length
        at_most = _PROBE_EXAMPLES if length is None else max(1, _PROBE_TOKENS // length)
        batch = next(iter(data.validation(batch_size=min(at_most, training.batch_size), batches=1)))
        arrays = inputs_of(batch) + ((batch[1],) if config.model.criterion.kind == "returned" else ())
        probe = [torch.from_numpy(array).to(self._device) for array in arrays]

        def train_step(step: int) -> Tensor:
            batch = data.batch(step, batch_size=training.batch_size, seed=training.seed)
            if not counted(batch, config.model.criterion):
                raise no_targets(config, f"the training batch of step {step} (from 0, seed {training.seed})")
            return learner.train_step(step, batch)

        model, fading = learner.model, _fading(learner.plan)
        return Trainee(unwrapped(model), lambda: model(*probe), train_step, learner.optimizer, facts_of(model), fading)

    def plan(self) -> Plan:
        """See `Subject`."""
        return plan_of(self._at(self.sizes[-1], 0, self.parametrization))

    def _at(self, size: int, seed: int, parametrization: str) -> RunConfig:
        config = self.config
        try:
            section = type(config.model).model_validate({**config.model.model_dump(), self.axis: size})
            changes: dict[str, Any] = {
                "model": section,
                "parametrization": parametrization,
                "hparams": config.hparams.with_values({"schedule": "constant", "warmup": 0.0}),
                "training": config.training.model_copy(
                    update={"seed": config.training.seed + seed, "precision": "fp32", "compile": False}
                ),
                "search": None,
                "provenance": None,
            }
            if parametrization != self.parametrization:  # the control has none of the rules whose effect it shows
                changes["rules"] = RulesSection()
            return RunConfig.model_validate({**dict(config), **changes})
        except ValidationError as error:
            raise UsageError(f"{config.name}: cannot be built at {self.axis} {size}: {first_problem(error)}") from None


class ModuleSubject:
    """A user's module factory and batches; see `coordinate_check` for the arguments."""

    def __init__(
        self,
        factory: ModelFactory,
        *,
        batches: Sequence[ModuleBatch],
        loss: Callable[[Any, Any], Tensor] | None,
        sizes: Sequence[int],
        axis: str,
        base_width: int,
        optimizer: str,
        lr: float,
        weight_decay: float,
        parametrization: str,
        plan_options: Mapping[str, Any],
        prepare: Callable[[nn.Module, int], object] | None,
        make_optimizer: Callable[[nn.Module, int], torch.optim.Optimizer] | None,
    ) -> None:
        if not batches:
            raise UsageError("coordinate_check needs inputs and targets, or batches")
        if (prepare is None) != (make_optimizer is None):
            raise UsageError("prepare and make_optimizer belong together: give both (your own µP), or neither (ours)")
        if axis != "width" and prepare is None:
            raise UsageError(f"over {axis} give prepare and make_optimizer: plan_for knows width only")
        self.axis, self.sizes = axis, _checked_sizes(sizes)
        self.parametrization = parametrization if prepare is None else "own"
        self.has_control = self.parametrization not in ("sp", "own")
        self._factory, self._batches, self._loss = factory, batches, loss or cross_entropy
        self._base_width, self._optimizer, self._lr, self._weight_decay = base_width, optimizer, lr, weight_decay
        self._plan_options, self._prepare, self._make_optimizer = dict(plan_options), prepare, make_optimizer

    def trainee(self, size: int, seed: int, parametrization: str) -> Trainee:
        """See `Subject`."""
        torch.manual_seed(seed)
        model, facts = built(self._factory, size, self._plan_options.get("facts"))
        fading: Mapping[str, float] = {}
        if self._prepare is not None and self._make_optimizer is not None:
            self._prepare(model, size)
            optimizer: torch.optim.Optimizer | Together = self._make_optimizer(model, size)
        else:
            plan = self._plan_at(size, parametrization)
            initialize(model, plan, seed=seed)
            groups = parameter_groups(model, plan, lr=self._lr, weight_decay=self._weight_decay)
            optimizer = optimizer_over(OPTIMIZERS.load(self._optimizer), groups)
            fading = _fading(plan)
        model.train()

        def train_step(step: int) -> Tensor:
            inputs, targets = self._batches[step % len(self._batches)]
            loss = self._loss(call_model(model, inputs), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return loss.detach()

        probe = self._batches[0][0]
        return Trainee(model, lambda: call_model(model, probe), train_step, optimizer, facts, fading)

    def plan(self) -> Plan | None:
        """See `Subject`. For the user's own µP it serves to name roles, so that a model without a plan has none."""
        if self._prepare is None:
            return self._plan_at(self.sizes[-1], self.parametrization)
        if self.axis != "width":
            return None
        try:
            return self._plan_at(self.sizes[-1], "mup")
        except PlanError:
            return None

    def _plan_at(self, size: int, parametrization: Any) -> Plan:
        return plan_for(
            self._factory,
            width=size,
            base_width=self._base_width,
            optimizer=self._optimizer,
            parametrization=parametrization,
            **self._plan_options,
        )


def _fading(plan: Plan) -> dict[str, float]:
    return {
        layer_of(name): math.sqrt(one.m_in)
        for name, one in plan.parameters.items()
        if one.role == "output" and one.init_std and plan.parametrization == "mup"
    }


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats of logits (…, classes) and targets (…)."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a tensor, a tuple of arguments, or a mapping of keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    found = tuple(sorted(set(sizes)))
    if len(found) < 3 or found[0] < 1:
        raise UsageError(f"sizes: a slope needs three of them at least, all >= 1, but got {', '.join(map(str, sizes))}")
    return found
