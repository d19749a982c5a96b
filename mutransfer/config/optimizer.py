"""`hparams.optimizer` as a section: a torch optimizer class of the user's own."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from mutransfer.config.base import FieldProblem, Section
from mutransfer.config.factory import FactoryName, find_factory, require_plain, said
from mutransfer.errors import ConfigError, nearest
from mutransfer.optimizers.base import Groups, Optimizer, OptimizerFamily, WeightDecay

if TYPE_CHECKING:
    import torch

# What a group carries, by the class's own parameter, and the hparams that set it.
_HPARAMS = {
    "lr": "lr", "weight_decay": "weight_decay", "eps": "eps", "momentum": "momentum", "betas": "beta1 and beta2",
}  # fmt: skip


class OptimizerSection(Section):
    """A torch optimizer class of your own: called with parameter groups and `arguments`, trained one by one."""

    factory: FactoryName
    """`package.file:Class`, a torch.optim.Optimizer. Groups carry `lr`, and where the class takes them `weight_decay`,
    `eps`, `betas` and `momentum`; their defaults are the class's own."""
    family: OptimizerFamily
    """Which optimizer's rule the lr follows. `adam`: the size of an update does not depend on the gradient's. `sgd`: it
    is proportional to the gradient. `muon`: all singular values of a matrix's update are alike; the class trains hidden
    matrices, and AdamW everything else with adam_lr."""
    decay: Literal["decoupled", "coupled"] | None = None
    """How the class applies weight decay: `decoupled`, to the weights times lr as AdamW does, or `coupled`, added to
    the gradient as Adam and SGD do. Needed where hparams.weight_decay is set, but with family `sgd`, whose default is
    coupled."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the class, such as `{nesterov: true}`; what hparams set cannot be given here."""

    @model_validator(mode="after")
    def _arguments_are_plain(self) -> Self:
        try:
            require_plain(self.arguments)
        except FieldProblem as problem:
            raise FieldProblem(("arguments", *problem.path), str(problem)) from None
        return self

    def __hash__(self) -> int:
        return hash((self.factory, self.family, self.decay, json.dumps(self.arguments, sort_keys=True)))

    def __str__(self) -> str:
        return self.factory

    @property
    def record(self) -> Optimizer:
        """The class's record; imports the class.

        Raises:
            FieldProblem: there is no such class, or it does not take an argument.
        """
        return _record(self)


@functools.lru_cache(maxsize=64)
def _record(section: OptimizerSection) -> Optimizer:
    from torch.optim import Optimizer as TorchOptimizer

    from mutransfer.optimizers import BUILT_IN, OPTIMIZERS

    name = section.factory
    try:
        found: Any = find_factory("optimizer.factory", name)
    except ConfigError as error:
        raise FieldProblem(("optimizer", "factory"), str(error).removeprefix("optimizer.factory: ")) from None
    if not (isinstance(found, type) and issubclass(found, TorchOptimizer)):
        raise FieldProblem(("optimizer", "factory"), f"{name} is not a class that inherits from torch.optim.Optimizer")
    takes = dict(list(inspect.signature(found).parameters.items())[1:])
    _check_arguments(section, takes)
    hparams = {}
    if "betas" in takes:
        hparams["beta1"], hparams["beta2"] = _default(takes, "betas", (0.9, 0.999))
    for field, default in (("eps", 1e-8), ("momentum", 0.0)):
        if field in takes:
            hparams[field] = _default(takes, field, default)
    like = next(one for one in map(OPTIMIZERS.load, BUILT_IN) if one.family == section.family)
    if like.rest is not None:
        hparams["adam_lr"] = like.own_hparams["adam_lr"]
    decay, refusal = _decay(section, takes, like)

    def build(groups: Groups) -> torch.optim.Optimizer:
        try:
            made: torch.optim.Optimizer = found(groups, **section.arguments)
        except Exception as error:
            raise ConfigError(f"hparams.optimizer.factory: {name} raised {said(error)}") from error
        return made

    return Optimizer(
        name=name,
        family=section.family,
        build=build,
        own_hparams=hparams,
        copies=4,  # its state is not known before it has run: as much as Adam's
        most_lr=like.most_lr,
        weight_decay=decay,
        refusal=refusal,
        rest=like.rest,
    )


def _decay(section: OptimizerSection, takes: Mapping[str, Any], like: Optimizer) -> tuple[WeightDecay, str]:
    """How weight decay acts, and why it is refused where it is."""
    if "weight_decay" not in takes:
        return "refused", f"has no effect: {section.factory} has no parameter weight_decay"
    if like.weight_decay == "coupled":
        return section.decay or "coupled", ""
    if section.decay == "coupled":
        return "refused", f"coupled L2 under family {section.family} has no width-independent rule; set it to 0"
    if section.decay is None:
        return "refused", "say first how it acts in this class: optimizer.decay: decoupled (as in AdamW) or coupled"
    return "decoupled", ""


def _check_arguments(section: OptimizerSection, takes: Mapping[str, inspect.Parameter]) -> None:
    named = [name for name, one in takes.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    takes_all = any(one.kind is one.VAR_KEYWORD for one in takes.values())
    for name in section.arguments:
        path = ("optimizer", "arguments", name)
        if name in _HPARAMS:
            raise FieldProblem(path, f"is set by an hparam: write it as hparams {_HPARAMS[name]}")
        if name not in named and not takes_all:
            hint = nearest(name, named, "its parameters are")
            raise FieldProblem(path, f"{section.factory} has no parameter of that name; {hint}")
    for name in named:
        if takes[name].default is inspect.Parameter.empty and name not in (*section.arguments, "lr"):
            raise FieldProblem(
                ("optimizer", "arguments"), f"{name} is missing: {section.factory} has no default for it"
            )


def _default(takes: Mapping[str, inspect.Parameter], name: str, otherwise: Any) -> Any:
    found = takes[name].default
    return otherwise if found is inspect.Parameter.empty or found is None else found
