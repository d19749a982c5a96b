"""The `search.pruner:` section: which trials are ended early, by their losses so far."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mutransfer.config.base import FieldProblem, Section

# Optional fields of a pruner and those that read them, with the value they take there when left out.
PRUNER_FIELDS: dict[str, dict[str, Any]] = {
    "median": {"startup": 5},
    "percentile": {"startup": 5, "percentile": 25.0},
    "successive-halving": {"reduction": 4},
    "hyperband": {"reduction": 3},
}


class PrunerSection(Section):
    """Which of Optuna's pruners ends trials early, by their losses so far; for runs with a constant lr only.

    Just the name does where its defaults will do: `pruner: median`. A run is looked at every `training.eval_every`
    steps by its validation loss, or, where that is 0, every `training.log_every` steps by its mean training loss since.
    """

    kind: Literal["median", "percentile", "successive-halving", "hyperband"]
    """`median` and `percentile` compare with the completed trials at the same step, `successive-halving` and
    `hyperband` with all that have reached the same rung."""
    percentile: Annotated[float, Field(gt=0, lt=100)] | None = None
    """With `percentile`: the share that goes on, in percent; 25 when left out."""
    startup: NonNegativeInt | None = None
    """With `median` and `percentile`: so many trials have to be completed before one is pruned; 5 when left out."""
    reduction: Annotated[int, Field(ge=2)] | None = None
    """With `successive-halving` (4 when left out) and `hyperband` (3): one in so many trials goes on at a rung."""
    min_steps: PositiveInt | None = None
    """No trial is pruned before so many steps; a tenth of them, or the end of the warmup if that is later, when left
    out. The first rung lies here."""
    lag: PositiveInt = 8
    """Trial k is judged by the trials up to k - lag, which have to have ended by then: so what is pruned depends
    neither on the number of workers nor on interruptions. No more trials than this train at once."""

    @model_validator(mode="after")
    def _nothing_is_dead(self) -> Self:
        for name in {name for fields in PRUNER_FIELDS.values() for name in fields} - set(PRUNER_FIELDS[self.kind]):
            if getattr(self, name) is not None:
                users = " and ".join(kind for kind, fields in PRUNER_FIELDS.items() if name in fields)
                raise FieldProblem((name,), f"has no effect with {self.kind}; it is for {users}")
        return self

    def largest_pack(self, workers: int) -> int:
        """Trials that each of so many workers may train at once without the workers waiting for each other."""
        return max(1, self.lag // workers)

    def resolved(self, name: str) -> Any:
        """The value of a field that was left out or not."""
        value = getattr(self, name)
        return PRUNER_FIELDS[self.kind].get(name) if value is None else value


GIVEN = Literal["none", "median", "percentile", "successive-halving", "hyperband"] | PrunerSection | None


def named_pruner(given: Any) -> Any:
    """The section that a pruner's name stands for."""
    if given == "none":
        return None
    return {"kind": given} if isinstance(given, str) else given
