"""Rewrites what the pages take from the code; with --check it says which pages are out of date.

    python docs/build.py [--check]

Generated, all in docs/: the regions between `<!-- made:NAME -->` and `<!-- end -->` in rules.md and exit-codes.md, and
all of config.md, cli.md and config.schema.json.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import typer.main

from mutransfer import errors
from mutransfer.cli import app
from mutransfer.config.base import Section
from mutransfer.config.data import DATA_SOURCES, TokenizerSection
from mutransfer.config.evaluation import EvaluationSection
from mutransfer.config.executors import EXECUTORS
from mutransfer.config.hparams import SCHEDULE_FIELDS, Hparams
from mutransfer.config.models import MODELS
from mutransfer.config.models.command import LossFrom
from mutransfer.config.optimizer import OptimizerSection
from mutransfer.config.pruner import PrunerSection
from mutransfer.config.rules import BatchSizeRule, DepthRule, HorizonRule, Interpolation, RulesSection
from mutransfer.config.schema import Provenance, RunConfig, TrainingSection
from mutransfer.config.search import Confirm, Distribution, Powers, SearchSection, Stage
from mutransfer.optimizers import BUILT_IN, OPTIMIZERS
from mutransfer.parametrization.rules import MUP, NTK, SP, Power, Table

ROOT = Path(__file__).resolve().parent.parent
_SECTIONS = {"model", "data", "training", "evaluation", "hparams", "rules", "search", "provenance"}
_ROLE_NOTES = {
    "input": "input (finite → width)",
    "hidden": "hidden (width → width)",
    "output": "output (width → finite)",
    "vector": "vector (bias, gain)",
    "scalar": "scalar",
}


def formula(symbol: str, power: Power) -> str:
    """A multiplier as people write it: `η·m_out/m_in`, `σ/√m_in`."""
    above, below = [], []
    for name, exponent in (("m_out", power.m_out), ("m_in", power.m_in)):
        if exponent:
            root = {0.5: f"√{name}", 1.0: name}[abs(exponent)]
            (above if exponent > 0 else below).append(root)
    text = "·".join([symbol, *above] if symbol != "1" or not above else above)
    return text + "".join(f"/{name}" for name in below)


def rules_table(rules: Table) -> str:
    """What each role gets in one parametrization."""
    head = ["role", "init std", "forward ×", "Adam lr", "SGD lr", "Muon lr", "AdamW decay", "SGD decay", "Adam ε"]
    rows = [
        [
            _ROLE_NOTES[role],
            formula("σ", rule.init_std),
            formula("1", rule.forward),
            formula("η", rule.adam_lr),
            formula("η", rule.sgd_lr),
            formula("η", rule.muon_lr) if role == "hidden" else "AdamW's",
            formula("λ", rule.adam_lr**-1),  # lr × decay keeps its value
            formula("λ", rule.sgd_lr**-1),
            formula("ε", rule.adam_eps),
        ]
        for role, rule in rules.items()
    ]
    return table(head, rows)


def exit_codes() -> str:
    """Exit codes, read off the error classes."""
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if one.__module__ == errors.__name__]
    rows = [["0", "done"], ["1", "internal error: please report it"]]
    seen = {1}
    for one in sorted(classes, key=lambda one: (one.exit_code, len(one.__mro__))):
        if one.exit_code not in seen:
            seen.add(one.exit_code)
            meaning = sentence(inspect.getdoc(one) or "")
            rows.append([str(one.exit_code), meaning[0].lower() + meaning[1:]])
    return table(["code", "meaning"], rows)


def config_reference() -> str:
    """docs/config.md."""
    parts = [
        "# Config reference",
        "Generated from mutransfer/config by `make docs`. Numbers may be written `1e-3`. Unknown keys are refused. "
        "Every number has a largest value, which config.schema.json gives: more than anybody has trained with, and not "
        "more than clocks, disks and torch can count. No field may hold a URL with a password or a token in it "
        "([storage.md](storage.md)). "
        "How the sections fit together: [configs.md](configs.md).",
        section("Top level", RunConfig, skip=_SECTIONS),
        "Then the sections below. `search` makes the config sweepable; it may also be the path of a YAML file with "
        "that section.",
    ]
    optimizers = {name: OPTIMIZERS.load(name).hparams for name in BUILT_IN}
    for name, registry in (("model", MODELS), ("data", DATA_SOURCES), ("executor", EXECUTORS)):
        for kind in registry.built_in:
            member = registry.load(kind)
            title = f"{name}, kind `{kind}`: {sentence(inspect.getdoc(member) or '')}"
            parts.append(section(title, member, skip={"kind"}))
    parts += [
        section("model.loss_from, of kind `command`", LossFrom),
        section("data.tokenizer: written short, `bytes` or `{file: tokenizer.json}`", TokenizerSection),
        section("training: compute settings", TrainingSection),
        section("evaluation: what is measured beside the loss", EvaluationSection),
        section("rules: scaling beyond the parametrization's table", RulesSection),
        section("rules.depth", DepthRule),
        section("rules.batch_size", BatchSizeRule),
        section("rules.horizon", HorizonRule),
        section("rules.interpolation", Interpolation),
        section("hparams: what transfers", Hparams, dependent={**_dependent(optimizers, "optimizer"),
                                                               **_dependent(SCHEDULE_FIELDS, "schedule")}),
        section("hparams.optimizer, as a section", OptimizerSection),
        section("search", SearchSection),
        section("search.pruner", PrunerSection),
        section("search.space: a distribution per hparam", Distribution),
        section("powers", Powers),
        section("search.stages: a horizon each", Stage),
        section("search.confirm: the top trials again with further seeds", Confirm),
        section("provenance: written by `mutransfer transfer`", Provenance),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _dependent(fields: Mapping[str, Mapping[str, Any]], chooser: str) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for choice, group in fields.items():
        for name in group:
            found.setdefault(name, []).append(choice)
    return {name: f"{chooser} {', '.join(choices)} only" for name, choices in found.items()}


def section(
    title: str, model: type[Section], *, skip: set[str] = frozenset(), dependent: dict[str, str] | None = None
) -> str:
    """One section of the reference: a row per field."""
    rows = []
    for name, field in model.model_fields.items():
        if name in skip:
            continue
        default = "required" if field.is_required() else literal(field.get_default(call_default_factory=True))
        note = (dependent or {}).get(name)
        meaning = " ".join((field.description or "").split()) + (f" ({note})" if note else "")
        rows.append([f"`{name}`", type_name(field.annotation), default, meaning])
    return f"## {title}\n\n" + table(["field", "type", "default", "meaning"], rows)


def type_name(annotation: Any) -> str:
    """A type as users write it in YAML."""
    if isinstance(annotation, type) and not get_args(annotation):
        return {"str": "text", "float": "number", "int": "whole number", "bool": "true/false"}.get(
            annotation.__name__, "section"
        )
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    origin = getattr(annotation, "__origin__", None)
    if str(annotation).startswith("typing.Literal"):
        return " \\| ".join(f"`{argument}`" for argument in arguments)
    if hasattr(annotation, "__metadata__"):
        return type_name(arguments[0])
    if origin is tuple:
        return "list"
    if origin is dict:
        return "section"
    return type_name(arguments[0]) if len(arguments) == 1 else "number, text or null"


def literal(value: Any) -> str:
    """A default as it is written in YAML."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    if isinstance(value, Section):
        return "`{" + ", ".join(f"{name}: {one}" for name, one in value.model_dump(exclude_none=True).items()) + "}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def cli_reference() -> str:
    """docs/cli.md, from the commands' own parameters."""
    command: Any = typer.main.get_command(app)
    parts = ["# Command reference", "Generated from the commands by `make docs`."]
    for name, verb in command.commands.items():
        options, usage = [], f"mutransfer {name}"
        for parameter in verb.params:
            if parameter.param_type_name == "argument":
                metavar = (parameter.metavar or parameter.name.upper()).strip("[]")
                usage += f" {metavar}" if parameter.required else f" [{metavar}]"
                options.append([f"`{metavar}`", parameter.help or ""])
            elif parameter.name != "help":
                options.append([f"`{parameter.opts[0]}`", parameter.help or ""])
        parts.append(f"## {usage}\n\n{verb.help}\n\n" + table(["option", "meaning"], options))
    return "\n\n".join(parts) + "\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def sentence(text: str) -> str:
    """The first paragraph of a docstring on one line, without its full stop."""
    return " ".join(text.split("\n\n", maxsplit=1)[0].split()).rstrip(".")


def schema() -> str:
    """docs/config.schema.json, for editors."""
    whole = RunConfig.model_json_schema()
    whole["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    whole["required"].remove("data")  # not for a command
    # In a file, search may also be a path.
    whole["properties"]["search"]["anyOf"].append({"type": "string"})
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def with_regions(page: str, regions: dict[str, str]) -> str:
    """A page of docs/ with its generated regions made anew."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for name, content in regions.items():
        pattern = re.compile(rf"(<!-- made:{name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, new=content: f"{match[1]}{new}\n{match[2]}", text)
        if count != 1:
            sys.exit(f"docs/{page}: there must be one region {name!r}, and there are {count}")
    return text


def pages() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    made = {
        "rules.md": with_regions("rules.md", {"mup": rules_table(MUP), "sp": rules_table(SP), "ntk": rules_table(NTK)}),
        "exit-codes.md": with_regions("exit-codes.md", {"exit-codes": exit_codes()}),
        "config.md": config_reference(),
        "cli.md": cli_reference(),
        "config.schema.json": schema(),
    }
    return {ROOT / "docs" / name: text for name, text in made.items()}


def main() -> None:
    """Write, or check."""
    made = pages()
    stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        if stale:
            sys.exit(f"out of date, run make docs: {', '.join(str(path.relative_to(ROOT)) for path in stale)}")
        return
    for path in stale:
        path.write_text(made[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
