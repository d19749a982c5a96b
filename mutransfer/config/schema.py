"""The whole config: one file describes a run, and a `search:` section makes it sweepable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from mutransfer.config.base import MOST, MOST_STEPS, Count, CountOrNone, FieldProblem, Section, Seed, Size, Steps
from mutransfer.config.data import DATA_SOURCES, AnyDataSection
from mutransfer.config.evaluation import EvaluationSection
from mutransfer.config.executors import EXECUTORS, BaseExecutorSection, LocalSection
from mutransfer.config.hparams import UNSWEEPABLE, Hparams
from mutransfer.config.models import MODELS, BaseModelSection
from mutransfer.config.rules import RulesSection
from mutransfer.config.search import NO_SECRETS, SearchSection
from mutransfer.config.trainer import TrainerFacts
from mutransfer.config.union import class_of, union_of
from mutransfer.errors import ConfigError, nearest
from mutransfer.messages import message_of
from mutransfer.shown import masked

_LONGEST_SWEPT_NAME = 100


# Made here, once plug-ins can import the sections that theirs inherit from.
if TYPE_CHECKING:
    ModelSection = BaseModelSection
    DataSection = AnyDataSection
    ExecutorSection = BaseExecutorSection
else:
    ModelSection, DataSection, ExecutorSection = map(union_of, (MODELS, DATA_SOURCES, EXECUTORS))


def _texts(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every text in plain data, and where it stands."""
    if isinstance(data, str):
        yield path, data
    elif isinstance(data, dict | list | tuple):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _texts(key, path)
            yield from _texts(value, (*path, key))


class TrainingSection(Section):
    """Compute settings: what does not transfer and is chosen per run."""

    steps: Steps = 200
    """Training steps."""
    batch_size: Size = 16
    """Sequences or examples per step."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` runs forward and loss under autocast; weights and optimizer state stay fp32."""
    seed: Seed = 0
    """Seed of the initial weights and of the order of batches."""
    compile: bool = False
    """Run the model through torch.compile."""
    eval_batches: Count = 8
    """Batches of the validation part over which the validation loss is a mean."""
    eval_every: Annotated[int, Field(ge=0, le=MOST_STEPS)] = 0
    """Steps between validations; 0 validates at the end only."""
    log_every: Steps = 10
    """Steps between two writes of the losses (at most five per second). Divergence is checked at least as often."""
    checkpoint_every: Steps = 100
    """Steps between two checkpoints of `mutransfer train`; trials of a sweep write none."""
    divergence_factor: Annotated[float, Field(gt=1, le=MOST)] = 3.0
    """A run has diverged, and is stopped, when its smoothed loss exceeds its first loss times this factor."""


class Provenance(Section):
    """Where a target's hparams come from; written by `mutransfer transfer`."""

    study: str
    """Run folder of the sweep."""
    trial: CountOrNone
    """Number of the trial whose hparams these are."""
    proxy_width: Size
    """Width the trial was trained at."""
    proxy_loss: Annotated[float, Field(ge=-MOST, le=MOST)]
    """The trial's objective."""
    objective: str
    """Which loss that is."""
    seeds: dict[str, Seed]
    """Seeds of the sweep and of the trial."""
    config_hash: str
    """Hash of the swept config."""
    versions: dict[str, str]
    """Versions of the packages that made it."""
    check: str = "skipped"
    """What the coordinate check before the sweep said, or that it was skipped, or which failed check was overridden."""


class RunConfig(Section):
    """One run, proxy or target."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
    """Name of the run and of its folder: letters, digits, dot, dash, underscore."""
    model: ModelSection
    """What is trained."""
    parametrization: Literal["mup", "sp", "ntk", "interpolated"] = "mup"
    """`mup`, or a control: `sp` (PyTorch's way, whose best hparams move with width), `ntk` (the kernel regime, where
    features stop moving), `interpolated` (between `sp` and `mup`, see `rules.interpolation`)."""
    reverse: bool = False
    """Narrower than the base width on purpose: reverse µTransfer, as `mutransfer reverse` writes it."""
    rules: RulesSection = RulesSection()
    """Scaling rules beyond the parametrization's own."""
    data: DataSection
    """What it is trained on."""
    training: TrainingSection = TrainingSection()
    """Compute settings."""
    evaluation: EvaluationSection = EvaluationSection()
    """What is measured beside the loss."""
    hparams: Hparams = Hparams()
    """What transfers."""
    search: SearchSection | None = None
    """What is swept; inline, or the path of a YAML file that holds this section."""
    executor: ExecutorSection = LocalSection()
    """Where the trials of a sweep run; it changes no result."""
    provenance: Provenance | None = None
    """Where the hparams come from, in configs that `mutransfer transfer` wrote."""

    @model_validator(mode="before")
    @classmethod
    def _has_no_secret(cls, given: Any) -> Any:
        """What stands in a config is written to the run folder, and may be printed."""
        for path, text in _texts(given):
            if masked(text) != text:
                elsewhere = "" if path == ("search", "storage") else "; only search.storage is read in this way"
                raise FieldProblem(path, NO_SECRETS + elsewhere)
        return given

    @model_validator(mode="before")
    @classmethod
    def _default_data(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "data" in given:
            return given
        section = class_of(MODELS, given.get("model"))
        kind = None if section is None else section.default_data
        return given if kind is None else {**given, "data": {"kind": kind}}

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        takes, gives = self.model.consumes, self.data.spec.consumed_as
        if not self.model.accepts(gives):
            if not self.trainer.project_data:
                raise FieldProblem(("data",), f"has no effect: a {self.model.kind} brings its own data; leave data out")
            hint = "; set data.mask" if (takes, gives) == ("masked tokens", "tokens") else ""
            raise FieldProblem(
                ("data", "kind"),
                f"{self.data.kind} gives {'what its factory returns' if gives == 'any' else gives}, but model kind "
                f"{self.model.kind} takes {takes}{hint}",
            )
        if self.reverse and (self.parametrization != "mup" or self.search is not None):
            raise FieldProblem(("reverse",), "is for a mup model to be trained, not for a control or a sweep")
        if self.model.width < self.model.base_width and not self.reverse:
            raise FieldProblem(
                ("model", "width"), f"{self.model.width} is narrower than base_width {self.model.base_width}"
            )
        self._check_dead()
        self._check_evaluation()
        self._check_rules()
        self.model.check_run(self)
        if self.search is not None:
            if len(self.name) > _LONGEST_SWEPT_NAME:
                raise FieldProblem(("name",), f"must have at most {_LONGEST_SWEPT_NAME} characters; targets add to it")
            for name, distribution in self.search.space.items():
                self._check_swept(self.search, name, distribution.extremes)
            self._check_across(self.search)
            self._check_stages(self.search)
            self._check_pruner(self.search)
        return self

    def _check_rules(self) -> None:
        if (self.parametrization == "interpolated") != (self.rules.interpolation is not None):
            raise FieldProblem(
                ("rules", "interpolation"), "belongs to parametrization interpolated; give both or neither"
            )
        if self.parametrization == "interpolated" and self.model.ties_embeddings:
            raise FieldProblem(
                ("model", "tied_embeddings"),
                "is impossible with parametrization interpolated: a tied readout's multiplier cannot become its init",
            )
        if self.rules.embedding_lr_exponent and (not self.hparams.record.of_tables or self.model.consumes == "classes"):
            raise FieldProblem(
                ("rules", "embedding_lr_exponent"),
                "has no effect: it is for lookup tables under a rule of Adam (adamw, adam, lion, muon)",
            )
        if self.rules.depth is not None and not self.model.residual:
            raise FieldProblem(("rules", "depth"), f"needs a residual model, which kind {self.model.kind} is not")

    def _check_evaluation(self) -> None:
        known = self.model.metrics
        for name in self.evaluation.metrics or ():
            if name not in known:
                has = f"it has {', '.join(known)}" if known else "it has none"
                raise FieldProblem(
                    ("evaluation", "metrics"), f"{name} is not a metric of kind {self.model.kind}; {has}"
                )
        if not known and self.evaluation != EvaluationSection():
            raise FieldProblem(("evaluation",), f"has no effect: model kind {self.model.kind} has no metrics")

    def _check_dead(self) -> None:
        for name, why in self.model.dead_training().items():
            if getattr(self.training, name) != TrainingSection.model_fields[name].default:
                raise FieldProblem(("training", name), f"has no effect: {why}")
        filled = self.hparams.live
        for name, why in self.model.dead_hparams().items():
            if getattr(self.hparams, name) not in (Hparams.model_fields[name].default, filled.get(name)):
                raise FieldProblem(("hparams", name), f"has no effect: {why}")
            if self.search is not None and name in self.search.space:
                raise FieldProblem(("search", "space", name), f"has no effect: {why}")

    def _check_swept(self, search: SearchSection, name: str, extremes: tuple[Any, ...]) -> None:
        path = ("search", "space", name)
        if name not in Hparams.model_fields:
            raise FieldProblem(path, f"is not an hparam; {nearest(name, Hparams.model_fields, 'the hparams are')}")
        if name in UNSWEEPABLE:
            raise FieldProblem(path, f"cannot be swept: {UNSWEEPABLE[name]}")
        swept = search.space.get("schedule")
        schedules = (self.hparams.schedule,) if swept is None or name == "schedule" else swept.extremes
        for value in extremes:
            try:
                changed = [self.hparams.with_values({"schedule": s, name: value}) for s in schedules]
            except ValidationError as error:
                raise FieldProblem(path, message_of(error.errors()[0])) from None
            if value is not None and all(getattr(hparams, name) is None for hparams in changed):
                raise FieldProblem(path, f"has no effect with schedule {' or '.join(map(str, schedules))}")

    def _check_across(self, search: SearchSection) -> None:
        """Every setting alone, so that the message names the value at fault, and then every combination."""
        alone = [
            (("search", "across", name, index), {name: value})
            for name, values in (search.across or {}).items()
            for index, value in enumerate(values)
        ]
        together = [(("search", "across"), combination) for combination in search.combinations() if combination]
        for path, settings in [*alone, *together]:
            try:
                self.at_point(settings)
            except ValidationError as error:
                first = error.errors()[0]
                cause = first.get("ctx", {}).get("error")
                inner = cause.path if isinstance(cause, FieldProblem) else ()
                field = ".".join(
                    str(key) for key in (*first["loc"], *inner) if key not in (self.model.kind, self.data.kind)
                )
                given = ", ".join(f"{name} {value}" for name, value in settings.items())
                raise FieldProblem(path, f"{given} makes no possible run: {field}: {message_of(first)}") from None

    def _check_stages(self, search: SearchSection) -> None:
        if search.stages is None:
            return
        *_, before, last = search.stages
        index, steps = len(search.stages) - 1, self.training.steps
        if last.steps not in (None, steps):
            raise FieldProblem(
                ("search", "stages", index, "steps"),
                f"must be training.steps ({steps}), at which the winner is found, but got {last.steps}",
            )
        if before.steps is not None and before.steps >= steps:
            raise FieldProblem(
                ("search", "stages", index - 1, "steps"),
                f"must be less than the last stage's, which is training.steps ({steps}), but got {before.steps}",
            )

    def _check_pruner(self, search: SearchSection) -> None:
        if search.pruner is None:
            return
        if not self.trainer.watched:
            raise FieldProblem(
                ("search", "pruner"),
                f"is impossible with model kind {self.model.kind}: its trials do not report their losses before they "
                "end; leave the pruner out",
            )
        for name in ("schedule", "warmup"):
            if name in search.space:
                raise FieldProblem(
                    ("search", "pruner"), f"is impossible where {name} is swept: at one step runs are not equally far"
                )
        if self.hparams.schedule != "constant":
            raise FieldProblem(
                ("search", "pruner"),
                f"needs hparams.schedule constant, but this is {self.hparams.schedule}: the unfinished curve of a "
                "decaying schedule says nothing of where it ends; search.stages ranks finished runs of a short horizon",
            )
        if self.pruning_from > self.training.steps - 1:
            raise FieldProblem(
                ("search", "pruner", "min_steps"),
                f"must be less than training.steps ({self.training.steps}), but got {self.pruning_from}",
            )
        every = self.pruning_every
        last = (self.training.steps - 1) // every * every
        if last < self.pruning_from:
            field = "eval_every" if self.training.eval_every else "log_every"
            raise FieldProblem(
                ("search", "pruner"),
                f"has no effect: with training.{field} {every} no run is looked at between step {self.pruning_from}, "
                f"before which none is pruned, and its end at {self.training.steps}",
            )

    @property
    def trainer(self) -> TrainerFacts:
        """What trains this run, and what that can do. `training.trainers.trainer_of` gives the trainer itself."""
        return self.model.trainer

    @property
    def factories(self) -> list[str]:
        """Names of the user's own functions and classes in the config."""
        named = (getattr(one, "factory", None) for one in (self.model, self.data, self.hparams.optimizer))
        return [name for name in named if name is not None]

    @property
    def pruning_every(self) -> int:
        """Steps between two looks of a pruner."""
        return self.training.eval_every or self.training.log_every

    @property
    def pruning_from(self) -> int:
        """Steps before which a pruner ends no trial; 0 without one."""
        pruner, steps = self.require_search().pruner, self.training.steps
        if pruner is None:
            return 0
        return pruner.min_steps or max(1, steps // 10, round(self.hparams.warmup * steps))

    def require_search(self) -> SearchSection:
        """The search section.

        Raises:
            ConfigError: there is none.
        """
        if self.search is None:
            raise ConfigError(f"{self.name}: has no search section, so there is nothing to sweep")
        return self.search

    def with_hparams(self, values: dict[str, Any]) -> RunConfig:
        """A copy whose hparams have `values`, for one trial."""
        return self.model_copy(update={"hparams": self.hparams.with_values(values)})

    def at_point(self, values: dict[str, Any]) -> RunConfig:
        """The run of one point: hparams by name, compute settings by dotted path; it has no search section.

        Raises:
            pydantic.ValidationError: the values make no possible run.
        """
        hparams = {name: value for name, value in values.items() if name in Hparams.model_fields}
        data: dict[str, Any] = self.with_hparams(hparams).model_dump(exclude={"search"})
        for name, value in values.items():
            if name in hparams:
                continue
            *sections, field = name.split(".")
            target = data
            for section in sections:
                target = target[section]
            target[field] = value
        if data["parametrization"] != self.parametrization:
            data["rules"] = {}  # a control has none of the rules whose effect it shows
        return RunConfig.model_validate(data)

    def resolved(self) -> dict[str, Any]:
        """Plain data without empty fields and without the executor; loading it gives a config of the same runs.

        The executor changes no result, and a machine that reads the data may lack the executor's package.
        """
        return self.model_dump(mode="json", exclude_none=True, exclude={"executor"})

    def hash(self) -> str:
        """12 hex digits that change with any field but the name, the provenance and the executor."""
        plain = {key: value for key, value in self.resolved().items() if key not in ("name", "provenance")}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]
