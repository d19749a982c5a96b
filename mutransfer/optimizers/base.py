"""The record of an optimizer. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from mutransfer.optimizers.stacked import Stacked

OptimizerFamily = Literal["adam", "sgd", "muon"]
WeightDecay = Literal["decoupled", "coupled", "refused"]
Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Optimizer:
    """One optimizer. An entry point of the group `mutransfer.optimizers` names such a record."""

    name: str
    family: OptimizerFamily
    """Which column of the rules its lr follows."""
    build: Callable[[Groups], torch.optim.Optimizer]
    """Makes the torch optimizer over parameter groups. Each group has `lr`, `weight_decay` and, of the hparams below,
    `betas`, `momentum` and `eps`."""
    own_hparams: Mapping[str, float]
    """The optional hparams that it reads, with their defaults: `beta1` with `beta2`, `momentum`, `eps`, `adam_lr`."""
    copies: int
    """Copies of the weights in memory: weights, gradients and state."""
    most_lr: float
    """Largest lr of the coordinate check. At the peak of a tuned lr, without its warmup, the first steps overshoot:
    changes are several times what they start from, differ as much between seeds, and say little of the limit."""
    weight_decay: WeightDecay = "decoupled"
    """How weight decay acts: on the weights times lr, through the gradient, or not at all."""
    refusal: str = ""
    """Why weight decay is refused, and what to use instead."""
    rest: Optimizer | None = None
    """Where set, this optimizer trains hidden matrices only, and that one trains everything else, with `adam_lr`."""
    pack: Callable[[Stacked, Mapping[str, torch.Tensor]], None] | Literal["sliced"] | None = None
    """Updates the stacked parameters of all members of a pack from their gradients; `sliced`: the torch optimizer runs
    over every member's slices; None: members cannot be packed."""

    @property
    def hparams(self) -> dict[str, float]:
        """Every optional hparam that is read, with its default."""
        return {**self.own_hparams, **({} if self.rest is None else self.rest.hparams)}

    @property
    def of_tables(self) -> bool:
        """Whether an exponent for the Adam lr of lookup tables has an effect."""
        return (self.rest or self).family == "adam"

    def trainer(self, family: str) -> Optimizer:
        """The optimizer of a parameter that follows that family's rule: this one, or the one for the rest."""
        return self if self.rest is None or family == self.family else self.rest


def of_torch(name: str, *, has_fused: bool = True) -> Callable[[Groups], torch.optim.Optimizer]:
    """The `build` of an optimizer of `torch.optim`, fused into one kernel where torch has it: a third of the time of
    its loop on a CPU."""

    def build(groups: Groups) -> torch.optim.Optimizer:
        import torch

        devices = {parameter.device.type for group in groups for parameter in group["params"]}
        options = {"fused": devices <= {"cpu", "cuda"}} if has_fused else {}
        made: torch.optim.Optimizer = getattr(torch.optim, name)(groups, **options)
        return made

    return build
