"""The `hparams:` section: what transfers unchanged from proxy to target (TP-V Table 1 and 2)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from mutransfer.config.base import Factor, FactorOrZero, FieldProblem, Section
from mutransfer.config.optimizer import OptimizerSection
from mutransfer.errors import UsageError
from mutransfer.optimizers import BUILT_IN, OPTIMIZERS
from mutransfer.optimizers.base import Optimizer

OPTIMIZER_TAGS = ("by name", "by section")
OptimizerChoice = Annotated[
    Annotated[str, Tag(OPTIMIZER_TAGS[0])] | Annotated[OptimizerSection, Tag(OPTIMIZER_TAGS[1])],
    Discriminator(lambda value: OPTIMIZER_TAGS[not isinstance(value, str)]),
    Field(examples=[*BUILT_IN]),
]
ScheduleName = Literal["constant", "linear", "cosine", "inverse_sqrt", "step"]
Fraction = Annotated[float, Field(ge=0, lt=1)]

OPTIMIZER_HPARAMS = ("beta1", "beta2", "eps", "momentum", "adam_lr")
# Optional fields, the schedules that read them, and their defaults there.
SCHEDULE_FIELDS: dict[str, dict[str, Any]] = {
    "constant": {},
    "linear": {"final_lr": 0.1},
    "cosine": {"final_lr": 0.1},
    "inverse_sqrt": {},
    "step": {"milestones": (0.5, 0.8), "step_factor": 0.1},
}
UNSWEEPABLE = {
    "optimizer": "its best lr is another one; sweep each optimizer in a study of its own",
    "milestones": "it is a list; sweep step_factor or schedule instead",
}


class Hparams(Section):
    """Hyperparameters that proxy and target share; the values are those at the base width."""

    optimizer: OptimizerChoice = "adamw"
    """`adamw`, `adam` (no weight decay: coupled L2 has no width-independent rule), `sgd`, `lion`, or `muon` (hidden
    matrices on Muon with Nesterov momentum, everything else on AdamW). Also the name of an optimizer from an installed
    package, or `{factory: package.file:Class, family: adam, arguments: {…}}` for a torch optimizer class of your
    own."""
    lr: Factor = 4e-3
    """Peak learning rate η; with `muon`, of the hidden matrices."""
    adam_lr: Factor | None = None
    """Peak learning rate of the parameters that `muon` leaves to AdamW. Default: 0.004."""
    embedding_lr: Factor = 1.0
    """Multiplies the lr of embeddings, or of an mlp's first layer."""
    norm_gain_lr: Factor = 1.0
    """Multiplies the lr of trainable norm gains."""
    bias_lr: Factor = 1.0
    """Multiplies the lr of biases."""
    init_scale: Factor = 1.0
    """Multiplies the std of every random initial weight."""
    temperature: Factor = 1.0
    """Logits are divided by it, in training, evaluation and sampling (TP-V: α_output = 1/T)."""
    attention_temperature: Factor = 1.0
    """Attention logits are divided by it."""
    embedding_scale: Factor = 1.0
    """Multiplies the output of the token embedding, or of an mlp's first layer."""
    position_scale: Factor = 1.0
    """Multiplies learned position embeddings."""
    relative_scale: Factor = 1.0
    """Multiplies the bias of relative positions, which attention_temperature does not divide."""
    weight_decay: FactorOrZero = 0.0
    """λ on weight matrices; lr × λ is what stays fixed across widths. Biases and gains do not decay."""
    beta1: Fraction | None = None
    """Decay of the gradient's running mean, of Adam and Lion; the optimizer's default when left out (0.9)."""
    beta2: Fraction | None = None
    """Decay of the running mean of squares of Adam (0.95 when left out), or of Lion's momentum (0.99)."""
    eps: Factor | None = None
    """Adam's ε. Default: 1e-8."""
    momentum: Fraction | None = None
    """Momentum. Default: the optimizer's, 0.9 for SGD, 0.95 for Muon."""
    clip: Factor | None = None
    """Gradients are clipped to this global norm. Default: no clipping."""
    schedule: ScheduleName = "cosine"
    """Shape of the learning rate over the run (TP-V Fig. 3's set)."""
    warmup: Fraction = 0.1
    """Share of the steps over which lr rises linearly to its peak."""
    final_lr: Annotated[float, Field(ge=0, le=1)] | None = None
    """Where `linear` and `cosine` end, as a share of the peak. Default: 0.1."""
    milestones: Annotated[tuple[Fraction, ...], Field(strict=False, min_length=1)] | None = None
    """Shares of the run at which `step` multiplies lr by `step_factor`. Default: [0.5, 0.8]."""
    step_factor: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Factor of `step`. Default: 0.1."""

    @model_validator(mode="after")
    def _nothing_is_dead(self) -> Self:
        try:
            dead = self.dead
        except UsageError as error:
            raise FieldProblem(("optimizer",), str(error).removeprefix("optimizer ")) from None
        for name, why in dead.items():
            if getattr(self, name) != Hparams.model_fields[name].default:
                raise FieldProblem((name,), why)
        if self.milestones is not None and list(self.milestones) != sorted(set(self.milestones)):
            raise FieldProblem(("milestones",), f"must rise, but got {list(self.milestones)}")
        return self

    @property
    def record(self) -> Optimizer:
        """The record of the optimizer.

        Raises:
            UsageError: the package that offers it cannot be imported.
        """
        return OPTIMIZERS.load(self.optimizer) if isinstance(self.optimizer, str) else self.optimizer.record

    @property
    def live(self) -> dict[str, Any]:
        """The optional fields that this optimizer and schedule read, with their defaults."""
        return {**self.record.hparams, **SCHEDULE_FIELDS[self.schedule]}

    def resolved(self, name: str) -> Any:
        """The value of an optional field, or its default with this optimizer and schedule."""
        value = getattr(self, name)
        return self.live.get(name) if value is None else value

    @property
    def dead(self) -> dict[str, str]:
        """Hparams that cannot be set with this optimizer and schedule, each with the reason."""
        record = self.record
        readers = {name: OPTIMIZERS.load(name).hparams for name in BUILT_IN}
        found = {}
        for chooser, chosen, fields, names in (
            ("optimizer", record.name, readers, set(OPTIMIZER_HPARAMS) - set(record.hparams)),
            ("schedule", self.schedule, SCHEDULE_FIELDS,
             {name for group in SCHEDULE_FIELDS.values() for name in group} - set(SCHEDULE_FIELDS[self.schedule])),
        ):  # fmt: skip
            for name in names:
                users = " and ".join(choice for choice, group in fields.items() if name in group)
                found[name] = f"has no effect with {chooser} {chosen}; it is for {users}"
        if record.weight_decay == "refused":
            found["weight_decay"] = record.refusal
        return found

    def filled(self) -> Hparams:
        """A copy in which every optional field that this optimizer and schedule read is written out."""
        return self.model_copy(update={name: self.resolved(name) for name in self.live})

    def with_values(self, values: dict[str, Any]) -> Hparams:
        """A copy with `values` set, validated; what a newly chosen schedule does not read is dropped.

        Raises:
            pydantic.ValidationError: a value is out of range.
        """
        merged = {**self.model_dump(), **values}
        live = SCHEDULE_FIELDS.get(merged["schedule"], {})
        for name in {name for group in SCHEDULE_FIELDS.values() for name in group} - set(live):
            merged[name] = None
        return Hparams.model_validate(merged)
