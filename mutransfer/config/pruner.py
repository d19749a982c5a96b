"""The `search.pruner:` section: which trials are ended early, by their losses so far."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mutransfer.config.base import CountOrNone, Few, FieldProblem, Section, Steps

# Optional fields of a pruner, the kinds that read them, and their defaults there.
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
    """With `percentile`: the share of trials that goes on, in percent. Default: 25."""
    startup: CountOrNone | None = None
    """With `median` and `percentile`: number of completed trials before any trial is pruned. Default: 5."""
    reduction: Annotated[Few, Field(ge=2)] | None = None
    """With `successive-halving` (default 4) and `hyperband` (default 3): one in this many trials goes on at a rung."""
    min_steps: Steps | None = None
    """No trial is pruned before this step, which is also the first rung. Default: a tenth of the steps, or the end of
    the warmup if that is later."""
    lag: Few = 8
    """Trial k is compared with the trials up to k - lag, after these have ended. So pruning does not depend on the
    number of workers or on interruptions. At most this many trials train at once."""

    @model_validator(mode="after")
    def _nothing_is_dead(self) -> Self:
        for name in {name for fields in PRUNER_FIELDS.values() for name in fields} - set(PRUNER_FIELDS[self.kind]):
            if getattr(self, name) is not None:
                users = " and ".join(kind for kind, fields in PRUNER_FIELDS.items() if name in fields)
                raise FieldProblem((name,), f"has no effect with {self.kind}; it is for {users}")
        return self

    def largest_pack(self, workers: int) -> int:
        """Largest number of trials that each of `workers` workers may train at once without waiting for another."""
        return max(1, self.lag // workers)

    def resolved(self, name: str) -> Any:
        """The value of a field, or its default for this kind."""
        value = getattr(self, name)
        return PRUNER_FIELDS[self.kind].get(name) if value is None else value


GIVEN = Literal["none", "median", "percentile", "successive-halving", "hyperband"] | PrunerSection | None


def named_pruner(given: Any) -> Any:
    """The section of a pruner that is given by name."""
    if given == "none":
        return None
    return {"kind": given} if isinstance(given, str) else given
