"""The `hparams:` section: what transfers unchanged from proxy to target (TP-V Table 1 and 2)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from mutransfer.config.base import FieldProblem, Section

OptimizerName = Literal["adamw", "adam", "sgd", "muon"]
ScheduleName = Literal["constant", "linear", "cosine", "inverse_sqrt", "step"]
Fraction = Annotated[float, Field(ge=0, lt=1)]

# Optional fields and the choices that read them, with the value they take there when left out.
OPTIMIZER_FIELDS: dict[str, dict[str, Any]] = {
    "adamw": {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
    "adam": {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
    "sgd": {"momentum": 0.9},
    "muon": {"momentum": 0.95, "adam_lr": 4e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
}
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

    optimizer: OptimizerName = "adamw"
    """`adamw`, `adam` (no weight decay: coupled L2 has no width-independent rule), `sgd`, or `muon` (hidden matrices
    on Muon with Nesterov momentum, everything else on AdamW)."""
    lr: PositiveFloat = 4e-3
    """Peak learning rate η; with `muon` that of the hidden matrices."""
    adam_lr: PositiveFloat | None = None
    """Peak learning rate of what `muon` leaves to AdamW; 0.004 when left out."""
    embedding_lr: PositiveFloat = 1.0
    """Multiplies the lr of embeddings, or of an mlp's first layer."""
    norm_gain_lr: PositiveFloat = 1.0
    """Multiplies the lr of trainable norm gains."""
    bias_lr: PositiveFloat = 1.0
    """Multiplies the lr of biases."""
    init_scale: PositiveFloat = 1.0
    """Multiplies the std of every random initial weight."""
    temperature: PositiveFloat = 1.0
    """Logits are divided by it, in training, evaluation and sampling (TP-V: α_output = 1/T)."""
    attention_temperature: PositiveFloat = 1.0
    """Attention logits are divided by it."""
    embedding_scale: PositiveFloat = 1.0
    """Multiplies the output of the token embedding, or of an mlp's first layer."""
    position_scale: PositiveFloat = 1.0
    """Multiplies learned position embeddings."""
    relative_scale: PositiveFloat = 1.0
    """Multiplies the bias of relative positions, which attention_temperature does not divide."""
    weight_decay: NonNegativeFloat = 0.0
    """λ on weight matrices; lr × λ is what stays fixed across widths. Biases and gains do not decay."""
    beta1: Fraction | None = None
    """Adam's first-moment decay; 0.9 when left out."""
    beta2: Fraction | None = None
    """Adam's second-moment decay; 0.95 when left out."""
    eps: PositiveFloat | None = None
    """Adam's ε; 1e-8 when left out."""
    momentum: Fraction | None = None
    """Momentum of SGD (0.9 when left out) or Muon (0.95)."""
    clip: PositiveFloat | None = None
    """Gradients are clipped to this global norm; no clipping when left out."""
    schedule: ScheduleName = "cosine"
    """Shape of the learning rate over the run (TP-V Fig. 3's set)."""
    warmup: Fraction = 0.1
    """Share of the steps over which lr rises linearly to its peak."""
    final_lr: Annotated[float, Field(ge=0, le=1)] | None = None
    """Where `linear` and `cosine` end, as a share of the peak; 0.1 when left out."""
    milestones: Annotated[tuple[Fraction, ...], Field(strict=False, min_length=1)] | None = None
    """Shares of the run at which `step` multiplies lr by `step_factor`; [0.5, 0.8] when left out."""
    step_factor: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Factor of `step`; 0.1 when left out."""

    @model_validator(mode="after")
    def _nothing_is_dead(self) -> Self:
        for name, why in self.dead.items():
            if getattr(self, name) != Hparams.model_fields[name].default:
                raise FieldProblem((name,), why)
        if self.milestones is not None and list(self.milestones) != sorted(set(self.milestones)):
            raise FieldProblem(("milestones",), f"must rise, but got {list(self.milestones)}")
        return self

    def resolved(self, name: str) -> Any:
        """The value of an optional field, or what stands in for it under this optimizer and schedule."""
        value = getattr(self, name)
        if value is None:
            value = {**OPTIMIZER_FIELDS[self.optimizer], **SCHEDULE_FIELDS[self.schedule]}.get(name)
        return value

    @property
    def dead(self) -> dict[str, str]:
        """Hparams that cannot be set with this optimizer and schedule, each with what is wrong with it there."""
        found = {}
        for chooser, fields in (("optimizer", OPTIMIZER_FIELDS), ("schedule", SCHEDULE_FIELDS)):
            chosen = getattr(self, chooser)
            for name in {name for group in fields.values() for name in group} - set(fields[chosen]):
                users = " and ".join(choice for choice, group in fields.items() if name in group)
                found[name] = f"has no effect with {chooser} {chosen}; it is for {users}"
        if self.optimizer == "adam":
            found["weight_decay"] = "adam's coupled L2 has no width-independent rule; use optimizer adamw"
        return found

    def filled(self) -> Hparams:
        """A copy in which every optional field that this optimizer and schedule read is written out."""
        live = {**OPTIMIZER_FIELDS[self.optimizer], **SCHEDULE_FIELDS[self.schedule]}
        return self.model_copy(update={name: self.resolved(name) for name in live})

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
