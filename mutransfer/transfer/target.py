"""Proxy and winner become the target's config: new compute settings, identical hparams, where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mutransfer.config.load import differences, load_config, save_config, validate
from mutransfer.config.schema import Provenance, RunConfig
from mutransfer.config.source import ConfigSource
from mutransfer.data import load_data
from mutransfer.errors import DataError, NothingUsable, UsageError
from mutransfer.models import plan_of
from mutransfer.parametrization.options import options_of
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.record import TrialRecord, completed
from mutransfer.sweep.selection import Selection, select
from mutransfer.sweep.stages import finalists, standing
from mutransfer.sweep.study import Study, versions
from mutransfer.training.folder import TrainFolder
from mutransfer.transfer.cost import Cost, estimate
from mutransfer.transfer.reasons import reasons_against

WhichTrial = int | Literal["best", "median"]


@dataclass(frozen=True)
class Overrides:
    """The target's compute settings; None keeps the proxy's."""

    width: int
    depth: int | None = None
    batch_size: int | None = None
    seq_len: int | None = None
    steps: int | None = None

    def fields(self) -> list[tuple[str, str, str, int | None]]:
        """(option, section, field, value) of each."""
        return [
            ("--width", "model", "width", self.width),
            ("--depth", "model", "depth", self.depth),
            ("--batch-size", "training", "batch_size", self.batch_size),
            ("--seq-len", "data", "seq_len", self.seq_len),
            ("--steps", "training", "steps", self.steps),
        ]


@dataclass(frozen=True)
class Target:
    """A planned target run."""

    proxy: RunConfig
    config: RunConfig
    folder: TrainFolder
    trial: TrialRecord
    changed: tuple[str, ...]
    """`field: proxy's → target's` of the compute settings."""
    cost: Cost | None
    """None where the model cannot be built here."""
    tuning_flops: int | None
    """What all runs of the sweep took: every stage of every trial, and those with further seeds."""
    rules: tuple[str, ...]
    """Optional rules that are on, and what each does at this size."""
    warnings: tuple[str, ...]
    """Every reason why the transfer may not hold."""

    def write(self) -> None:
        """Save the config; one that stands there already is kept when it is the same.

        Raises:
            UsageError: another config stands there, or the folder cannot be written.
        """
        path = self.folder.config
        if path.exists():
            changed = differences(load_config(path), self.config, ignore=("provenance.versions",))
            if changed:
                raise UsageError(
                    f"{path}: is there already and differs; move it away to write it anew\n  " + "\n  ".join(changed)
                )
            return
        save_config(self.config, path, heading="Written by mutransfer transfer; run it with mutransfer train.")


def make_target(
    sweep: SweepFolder,
    overrides: Overrides,
    *,
    trial: WhichTrial = "best",
    check: str | None = None,
    proxy: RunConfig | None = None,
) -> Target:
    """Plan the target of a sweep, without allocating its weights.

    Args:
        trial: `best`, `median`, or the number of a completed trial.
        check: for the provenance, instead of what the sweep's own check said.
        proxy: the sweep's config, for callers that have loaded it.

    Raises:
        UsageError: the width is below the base width, an override does not fit the model or the data, there is no
            such trial, or the sweep's files are damaged.
        NothingUsable: no trial of the sweep completed.
    """
    proxy = proxy or load_config(sweep.config)
    if proxy.require_search().across:
        raise UsageError(f"{sweep.root}: holds the points of a check across compute settings, which have no winner")
    study = Study(sweep.study, None)
    records, repeats = study.records(), study.attributes.get("repeats", {})
    selection = select(proxy, records, repeats)
    if selection is None:
        raise NothingUsable(f"{sweep.root}: {_why_none(proxy, records)}, so there is nothing to transfer")
    record = _pick(selection, trial)
    config = _target_config(sweep, proxy, record, overrides, check or study.attributes.get("check", "skipped"))
    repeated = sum(len(again) for again in repeats.values()) * proxy.training.steps
    trained = [run for one in records for run in (one, *one.longer)]
    steps = sum(run.steps or 0 for run in trained) + repeated
    _require_sequence(proxy, config)
    inspectable = config.trainer.inspectable
    folder = sweep.target(config.name.removeprefix(f"{proxy.name}-"))
    return Target(
        proxy=proxy,
        config=config,
        folder=folder,
        trial=record,
        changed=tuple(differences(proxy, config, ignore=("name", "search", "provenance", "hparams"))),
        cost=estimate(config, plan_of(config)) if inspectable else None,
        tuning_flops=steps * estimate(proxy, plan_of(proxy)).flops_per_step if inspectable else None,
        rules=options_of(config).notes,
        warnings=tuple(_warnings(proxy, config, records, selection, record)),
    )


def _why_none(proxy: RunConfig, records: Sequence[TrialRecord]) -> str:
    if completed(finalists(proxy, records)):
        return "no trial gave a result with every seed of search.confirm"
    stands = standing(proxy, records)
    if stands.stages == 1:
        return "no trial has completed"
    return f"no trial has completed the last stage ({stands.done} of {stands.total} done{stands.where})"


def _pick(selection: Selection, trial: WhichTrial) -> TrialRecord:
    if trial == "best":
        return selection.best
    if trial == "median":
        return selection.median
    found = next((record for record in selection.ranking if record.number == trial), None)
    if found is None:
        numbers = ", ".join(str(record.number) for record in selection.ranking)
        raise UsageError(f"--trial {trial}: is not a completed trial; the completed ones, best first, are {numbers}")
    return found


def _target_config(
    sweep: SweepFolder, proxy: RunConfig, record: TrialRecord, overrides: Overrides, check: str
) -> RunConfig:
    if overrides.width < proxy.model.base_width:
        raise UsageError(
            f"--width {overrides.width}: is narrower than the base width {proxy.model.base_width}; a target is at "
            "least that wide"
        )
    winner = proxy.with_hparams(record.params)
    data = winner.model_copy(update={"hparams": winner.hparams.filled()}).resolved()
    source = ConfigSource(str(sweep.config), data)
    name = [f"w{overrides.width}"]
    for option, section, field, value in overrides.fields():
        if value is None:
            continue
        if field not in {**type(getattr(proxy, section)).model_fields, **data[section]}:
            kind = getattr(proxy, section).kind
            raise UsageError(f"{option}: {section} kind {kind} has no {field}")
        if field != "width" and value != data[section].get(field):
            name.append(f"{option.strip('-')[0]}{value}" if option != "--steps" else f"n{value}")
        data[section][field] = value
        source.overridden[(section, field)] = f"{option} {value}"
        source.overridden.setdefault((section,), f"{option} {value}")  # for what then no longer fits it
    search = data.pop("search")
    data["name"] = "-".join([proxy.name, *name, f"t{record.number}"])
    data["provenance"] = _provenance(sweep, proxy, record, search, check).model_dump()
    return validate(source)


def _require_sequence(proxy: RunConfig, config: RunConfig) -> None:
    """Refuse a sequence for which the data is too short, where the data lies on this machine."""
    data = config.data
    if data == proxy.data or not data.is_local:
        return
    try:
        load_data(proxy.data)
    except DataError:  # of another machine, maybe, as the target will be
        return
    try:
        load_data(data)
    except DataError as error:
        raise UsageError(f"--seq-len {data.sequence_length}: {error}") from None


def _provenance(
    sweep: SweepFolder, proxy: RunConfig, record: TrialRecord, search: dict[str, Any], check: str
) -> Provenance:
    return Provenance(
        study=str(sweep.root),
        trial=record.number,
        proxy_width=proxy.model.width,
        proxy_loss=record.score,
        objective=search["objective"],
        seeds={"search": search["seed"], "training": record.seed or 0},
        config_hash=proxy.hash(),
        versions=versions(),
        check=check,
    )


def _warnings(
    proxy: RunConfig,
    config: RunConfig,
    records: Sequence[TrialRecord],
    selection: Selection,
    record: TrialRecord,
) -> list[str]:
    found = []
    stands = standing(proxy, records)
    if stands.done < stands.total:
        found.append(f"the sweep is not finished: {stands.done} of {stands.total} trials have ended{stands.where}")
    elif selection.seed_noise is None and proxy.require_search().confirm.top:
        found.append(
            "the best trials have not been trained with every further seed of search.confirm, so the winner is by one "
            "run, and seed noise and ties are unknown"
        )
    if record.number == selection.best.number:
        found += selection.warnings
    else:
        found.append(f"trial {record.number} is not the best one, which is {selection.best.number}")
    return found + reasons_against(proxy, config)
