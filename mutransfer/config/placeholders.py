"""The placeholders `{name}` in the arguments of a command. Imports no torch."""

from __future__ import annotations

import difflib
import string
from collections.abc import Mapping
from typing import Any

from mutransfer.config.base import FieldProblem
from mutransfer.config.hparams import Hparams
from mutransfer.shown import quoted

MODEL = ("width", "base_width", "width_multiplier", "depth")
TRAINING = (
    "steps", "batch_size", "precision", "seed", "compile", "eval_batches", "eval_every", "log_every",
    "checkpoint_every", "divergence_factor",
)  # fmt: skip
RUN = ("name", "parametrization", "trial_folder", "resume", "python")
HPARAMS = tuple(Hparams.model_fields)
ENVIRONMENT_PREFIX = "MUTRANSFER_"


def known() -> tuple[str, ...]:
    """Every placeholder."""
    return (*HPARAMS, *MODEL, *TRAINING, *RUN)


def names_in(template: str, path: tuple[str | int, ...]) -> set[str]:
    """The placeholders of one argument.

    Raises:
        FieldProblem: at `path`: a placeholder is unknown or has a format, or a brace is not closed.
    """
    shown = quoted(template)
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise FieldProblem(path, f"{shown}: {error}; write a literal brace as {{{{ or }}}}") from None
    found = set()
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if name not in known():
            near = difflib.get_close_matches(name, known(), n=1)
            hint = f"did you mean {{{near[0]}}}?" if near else f"there are {', '.join(known())}"
            raise FieldProblem(
                path, f"{shown}: there is no placeholder {{{name}}}; {hint} (write a literal brace as {{{{ or }}}})"
            )
        if form or conversion:
            raise FieldProblem(path, f"{shown}: a placeholder takes no format; write {{{name}}}")
        found.add(name)
    return found


def fill(template: str, values: Mapping[str, str]) -> str:
    """The argument with values in place of its placeholders."""
    return "".join(
        text + (values[name] if name is not None else "") for text, name, *_ in string.Formatter().parse(template)
    )


def text_of(value: Any) -> str:
    """A value as text for a command line: `0.004`, `1e-08`, `true`, `0.5,0.8`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(text_of(one) for one in value)
    return str(value)
