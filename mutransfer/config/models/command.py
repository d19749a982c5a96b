"""`model: {kind: command}`: a trainer of the user's own, run as a command line per trial."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mutransfer.config import placeholders
from mutransfer.config.base import Depth, FieldProblem, Seconds, Section
from mutransfer.config.hparams import Hparams
from mutransfer.config.models.base import AnyRun, BaseModelSection
from mutransfer.config.rules import RulesSection
from mutransfer.config.trainer import COMMAND
from mutransfer.shown import quoted

STREAMS = ("stdout", "stderr", "output")
_OWN_FILES = ("metrics.jsonl", "config.yaml", "result.json", "error.txt", "stdout.txt", "stderr.txt")


def _arguments(given: Any) -> Any:
    if not isinstance(given, list | tuple):
        raise ValueError("must be a list of arguments, such as [python, train.py, --lr, '{lr}']; no shell reads it")
    numbers = (one for one in given if isinstance(one, int | float) and not isinstance(one, bool))
    texts = {id(one): placeholders.text_of(one) for one in numbers}
    return [texts.get(id(one), one) for one in given]


class LossFrom(Section):
    """Where the loss of a command is read: `{json_lines, field}`, or `{regex, source}`."""

    json_lines: str | None = None
    """Lines of JSON: `stdout`, `stderr`, or a file that the command writes into the trial's folder. Other lines are
    skipped."""
    field: str | None = None
    """Key of the loss in a line; `metrics.val` is a key inside an object. Default: `val_loss`. Lines without the key,
    or with null, are skipped."""
    step_field: str | None = None
    """Key of the step in a line; lines need not have it. Default: `step`."""
    regex: str | None = None
    """Python regular expression that is searched in every line. Its group named `loss`, or its first group, is the loss
    (`nan` and `inf` count as diverged); a group named `step` is the step."""
    source: str | None = None
    """Where `regex` searches: `output` (stdout and stderr, the default), `stdout`, `stderr`, or a file in the trial's
    folder."""
    takes: Literal["last", "minimum"] = "last"
    """Which of the values is the trial's loss. `minimum` is the loss of the best checkpoint; it favours runs that
    evaluate more often."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.json_lines is None) == (self.regex is None):
            raise FieldProblem((), "give exactly one of json_lines (JSON, a line each) and regex (in any text)")
        foreign = ("source",) if self.regex is None else ("field", "step_field")
        for name in foreign:
            if getattr(self, name) is not None:
                raise FieldProblem((name,), f"has no effect with {'regex' if self.regex else 'json_lines'}")
        file = self.where
        if file not in STREAMS and (file.startswith(("/", "~")) or ".." in file.split("/") or not file):
            raise FieldProblem(
                ("json_lines" if self.regex is None else "source",),
                f"{quoted(file)} must be a stream, or a file in the trial's folder, the command's {{trial_folder}}",
            )
        if file in _OWN_FILES:
            raise FieldProblem(
                ("json_lines" if self.regex is None else "source",),
                f"{quoted(file)} is mutransfer's own file; take another name",
            )
        if self.regex is not None:
            self._check_regex(self.regex)
        return self

    @staticmethod
    def _check_regex(text: str) -> None:
        try:
            pattern = re.compile(text)
        except (re.error, RecursionError, OverflowError) as error:
            raise FieldProblem(("regex",), f"{quoted(text)} is not a regular expression: {error}") from None
        if "loss" not in pattern.groupindex and (pattern.groups != 1 or "step" in pattern.groupindex):
            raise FieldProblem(("regex",), f"{quoted(text)} needs one group (…) around the loss, or (?P<loss>…)")

    @property
    def where(self) -> str:
        """`stdout`, `stderr`, `output`, or a file in the trial's folder."""
        return (self.json_lines if self.regex is None else self.source or "output") or ""


class CommandSection(BaseModelSection):
    """The user's own trainer, run as one command per trial. It brings its own model, data and µP."""

    implementation = ""
    consumes = "nothing"
    trainer = COMMAND
    default_data = "none"

    kind: Literal["command"]
    """Model kind."""
    command: Annotated[tuple[str, ...], Field(strict=False, min_length=1), BeforeValidator(_arguments)]
    """Program and arguments, a list: no shell reads it. `{lr}`, `{width}`, `{base_width}`, `{steps}`, `{seed}`,
    `{trial_folder}`, any hparam or compute setting is replaced by its value; `{{` and `}}` are literal braces. The
    command starts in the folder in which mutransfer was called."""
    environment: Annotated[dict[str, str], Field(default_factory=dict)]
    """Environment variables for it, on top of mutransfer's own; placeholders as in `command`."""
    passes: Literal["arguments", "environment"] = "arguments"
    """`environment`: the command reads the variables MUTRANSFER_LR, MUTRANSFER_WIDTH and so on, which are always set,
    so that all of them count as passed. `arguments`: only what a placeholder names does."""
    loss_from: LossFrom
    """Where its loss is read."""
    timeout: Seconds | None = None
    """Seconds after which a run is ended and counts as crashed. Default: no limit."""
    depth: Depth | None = None
    """For `{depth}`, where the command takes one."""

    @model_validator(mode="after")
    def _placeholders_fit(self) -> Self:
        passed = self.passed
        if not {"width", "width_multiplier"} & passed:
            raise FieldProblem(
                ("command",), "never gets the width; pass {width} (and {base_width}), without which nothing transfers"
            )
        if "depth" in self.named and self.depth is None:
            raise FieldProblem(("depth",), "is required: the command uses {depth}")
        if "depth" not in passed and self.depth is not None:
            raise FieldProblem(("depth",), "has no effect: the command never gets {depth}")
        for name in self.environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise FieldProblem(("environment", name), "is not a valid name of an environment variable")
            if name.startswith(placeholders.ENVIRONMENT_PREFIX):
                raise FieldProblem(("environment", name), "is set by mutransfer; choose another name")
        return self

    @property
    def named(self) -> set[str]:
        """The placeholders in use."""
        found: set[str] = set()
        for index, argument in enumerate(self.command):
            found |= placeholders.names_in(argument, ("command", index))
        for name, value in self.environment.items():
            found |= placeholders.names_in(value, ("environment", name))
        return found

    @property
    def passed(self) -> set[str]:
        """What reaches the command."""
        return self.named if self.passes == "arguments" else set(placeholders.known())

    def check_run(self, run: AnyRun) -> None:
        """Refuse settings that have no effect on a command, and placeholders without a value."""
        if run.rules != RulesSection():
            raise FieldProblem(("rules",), "has no effect: a command has scaling rules of its own")
        if run.parametrization != "mup" and "parametrization" not in self.passed:
            raise FieldProblem(("parametrization",), f"has no effect: {self.unpassed('parametrization')}")
        swept = {} if run.search is None else run.search.space
        unset = {name for name in self.named if name in Hparams.model_fields and run.hparams.resolved(name) is None}
        for name in sorted(unset - set(swept)):
            raise FieldProblem(("hparams", name), f"is required: the command uses {{{name}}}")
        for name, distribution in swept.items():
            if name in self.passed and None in distribution.extremes:
                raise FieldProblem(("search", "space", name), "null cannot be passed to a command; give values only")
        if run.search is None:
            return
        if run.search.objective != "validation_loss":
            raise FieldProblem(
                ("search", "objective"), "has no effect: a command has one loss, the one that model.loss_from reads"
            )
        if run.search.stages is not None and "steps" not in self.passed:
            raise FieldProblem(("search", "stages"), f"has no effect: {self.unpassed('steps')}")
        if run.search.confirm.top and "seed" not in self.passed:
            raise FieldProblem(
                ("search", "confirm"), f"has no effect: {self.unpassed('seed')}; or set search.confirm.top to 0"
            )

    @property
    def has_control(self) -> bool:  # noqa: D102
        return "parametrization" in self.passed

    def dead_hparams(self) -> dict[str, str]:  # noqa: D102
        return {name: self.unpassed(name) for name in placeholders.HPARAMS if name not in self.passed}

    def dead_training(self) -> dict[str, str]:  # noqa: D102
        # What mutransfer itself does with a command's run does not have to reach the command.
        own = {"divergence_factor"}
        return {name: self.unpassed(name) for name in placeholders.TRAINING if name not in self.passed | own}

    @staticmethod
    def unpassed(name: str) -> str:
        """Why a setting changes nothing."""
        return (
            f"the command never gets {{{name}}}; put it into model.command or model.environment, or set model.passes "
            f"to environment if the command reads {placeholders.ENVIRONMENT_PREFIX}{name.upper()}"
        )
