"""The coordinator: owns the study, keeps every worker busy, and loses nothing when it is stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mutransfer.config.factory import code_of
from mutransfer.config.load import differences, load_config, save_config
from mutransfer.config.schema import RunConfig
from mutransfer.data import load_data
from mutransfer.data.dataset import notes_of
from mutransfer.errors import NothingUsable, UsageError
from mutransfer.executors.base import Executor, Stop
from mutransfer.sweep.confirmation import Repeats, confirmation
from mutransfer.sweep.dispatcher import Dispatcher, Observer
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.packing.choose import choose_shape
from mutransfer.sweep.record import TrialRecord, completed
from mutransfer.sweep.results import write_results
from mutransfer.sweep.selection import Selection, select
from mutransfer.sweep.stages import entrants, finalists, standing
from mutransfer.sweep.trial import make_executor, require_able
from mutransfer.training.trainers import trainer_of

if TYPE_CHECKING:
    from mutransfer.sweep.study import Study

# May differ when a sweep is continued: none of them changes what trial k is.
CHANGEABLE = (
    "search.trials", "search.retries", "search.hang_after", "search.confirm.top", "search.confirm.seeds", "provenance",
)  # fmt: skip
_UNCHECKED = "skipped"
MakeExecutor = Callable[[], Executor]
Check = Callable[[Path], str]


@dataclass(frozen=True)
class SweepResult:
    """The result of a finished sweep."""

    folder: SweepFolder
    records: tuple[TrialRecord, ...]
    selection: Selection


def run_sweep(
    config: RunConfig,
    *,
    runs: Path = Path("runs"),
    executor: MakeExecutor | None = None,
    observer: Observer | None = None,
    should_stop: Stop = lambda: False,
    check: Check | None = None,
    pack: int | None = None,
    arrange: bool = True,
) -> SweepResult:
    """Run or continue the sweep of `config` in `runs/<name>`.

    Args:
        executor: makes the executor. Default: the one that the config chooses.
        should_stop: asked several times a second; when true the workers are ended.
        check: called with the run folder before the first trial, unless an earlier call has passed it; what it
            returns goes into the study's records, what it raises ends the sweep before it begins.
        pack: trials that a worker trains at once as one program; 1 trains them one by one, None measures what is
            fastest, once per sweep, and remembers it for sweeps like this one.
        arrange: whether the workers may be had in another number, with more threads each, where that is faster.

    Raises:
        ConfigError: the config has no search section.
        UsageError: the folder holds another config's sweep, other data, or damaged files, is in use, or
            cannot be written.
        DataError: the data cannot be used.
        NothingUsable: every trial diverged, crashed or ran out of memory, with its own seed or a further one.
        Interrupted: `should_stop` was true; the same call continues.
    """
    if config.require_search().across:
        raise UsageError(
            f"{config.name}: search.across has no single winner to sweep for; mutransfer transfer-check runs such grids"
        )
    if not config.trainer.packs and pack is not None and pack > 1:
        raise UsageError(f"--pack {pack}: a {config.model.kind} trains one trial at a time")
    if config.training.compile and pack is not None and pack > 1:
        raise UsageError(f"--pack {pack}: training.compile compiles one run, and trials train one by one with it")
    folder = SweepFolder(runs / config.name)
    records, selection, repeats = _run(config, folder, executor, observer, should_stop, check, pack, arrange)
    if selection is None:
        raise NothingUsable(_why_nothing(config, folder, records, repeats))
    return SweepResult(folder, tuple(records), selection)


def run_points(
    config: RunConfig,
    folder: SweepFolder,
    *,
    executor: MakeExecutor | None = None,
    observer: Observer | None = None,
    should_stop: Stop = lambda: False,
) -> tuple[TrialRecord, ...]:
    """Run or continue a grid across compute settings (`search.across`) in `folder`; raises as `run_sweep` does.

    Nothing is selected: every point is a result, those that diverged included.
    """
    return tuple(_run(config, folder, executor, observer, should_stop)[0])


def _run(
    config: RunConfig,
    folder: SweepFolder,
    executor: MakeExecutor | None,
    observer: Observer | None,
    should_stop: Stop,
    check: Check | None = None,
    pack: int | None = 1,
    arrange: bool = False,
) -> tuple[list[TrialRecord], Selection | None, Repeats]:
    """Train what is missing and write the results; the selection is None where there is nothing to select."""
    load_data.cache_clear()  # the data may have changed since this process read it
    watching, data = observer or Observer(), ""
    require_able(config)
    trainer_of(config).require_trials(config, folder.root)
    with ExitStack() as stack:
        make_crew = executor or (lambda: make_executor(config))
        # First, so that workers import torch while the data is read, the config checked and the study made.
        crew = None if folder.exists else stack.enter_context(closing(make_crew()))
        if config.trainer.project_data:
            opened = load_data(config.data)
            data = opened.fingerprint
            for note in notes_of(opened):
                watching.noted(note)
        stack.enter_context(folder.sole_coordinator())
        # Before the study exists: a config that fails can be fixed and swept under the same name.
        checked = check(folder.root) if check is not None and not folder.exists else None
        study = stack.enter_context(closing(_open_study(folder, config, data, should_stop)))
        if checked is None and check is not None and study.attributes.get("check", _UNCHECKED) == _UNCHECKED:
            checked = check(folder.root)
        study.set_attribute("check", checked or study.attributes.get("check", _UNCHECKED))
        crew = crew or stack.enter_context(closing(make_crew()))
        try:
            arrange = arrange and not config.executor.fixed_workers
            packing = choose_shape(config, study, crew, watching, should_stop, pack=pack, arrange=arrange)
            Dispatcher(config, folder, study, crew, watching, should_stop, packing).run()
        except BaseException:
            with suppress(UsageError):  # a full disk refuses these too; the reason why the sweep ended matters more
                _finish(config, folder, study, crew)
            raise
        return _finish(config, folder, study, crew)


def _finish(
    config: RunConfig, folder: SweepFolder, study: Study, crew: Executor
) -> tuple[list[TrialRecord], Selection | None, Repeats]:
    """End the workers and write the results of the trials there are."""
    crew.close()
    records, repeats = study.records(), study.attributes.get("repeats", {})
    selection = None if config.require_search().across else select(config, records, repeats)
    write_results(folder, config, records, selection)
    return records, selection, repeats


def _open_study(folder: SweepFolder, config: RunConfig, data: str, should_stop: Stop) -> Study:
    """Create the study, or continue an existing one of the same config."""
    from mutransfer.sweep.study import Study  # a database's libraries take as long as a worker needs to start

    if not folder.exists:
        if folder.trials.exists():
            raise UsageError(f"{folder.root}: has trials but no study.db; move it away to start over")
        save_config(config, folder.config)
        return Study.create(folder, config, {"data": data, "code": _code(config)}, should_stop=should_stop)
    study = Study(folder.study, config.search, should_stop=should_stop)
    with ExitStack() as refused:
        refused.callback(study.close)
        if changed := differences(load_config(folder.config), config, ignore=CHANGEABLE):
            raise UsageError(
                f"{folder.root}: holds the sweep of another config; give this one another name. It differs in\n  "
                + "\n  ".join(changed)
            )
        if study.attributes.get("data") != data:
            raise UsageError(
                f"{folder.root}: the data has changed since this sweep began, so further trials would not be "
                "comparable; give the config another name"
            )
        if study.attributes.get("code", "") not in ("", _code(config)):
            raise UsageError(
                f"{folder.root}: the code of {config.model.label} has changed since this sweep began, so further "
                "trials would be of another model; give the config another name, or take the change back"
            )
        refused.pop_all()
    save_config(config, folder.config)
    return study


def _code(config: RunConfig) -> str:
    """What a study of foreign code remembers of it: the plan, and the user's files."""
    if not config.model.foreign:
        return ""
    from mutransfer.models import plan_of

    return f"{plan_of(config).fingerprint}-{code_of(config.factories)}"


def _why_nothing(config: RunConfig, folder: SweepFolder, records: list[TrialRecord], repeats: Repeats) -> str:
    failed = confirmation(config, completed(finalists(config, records)), repeats).failed
    reached = max((record.furthest.stage for record in records), default=1)
    ends = entrants(config, records, reached)
    counts = Counter((record.outcome or "unfinished").replace("_", " ") for record in ends)
    listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    errors = [record.error for record in records if record.error]
    detail = f"; the last error was: {errors[-1]}" if errors else "; try lower learning rates"
    if "completed" in counts:
        crashes = [one for own in failed.values() for one in own if one.crashed]
        if crashes:
            detail = f"; confirmations crashed, the last with: {crashes[-1].error}. The same command tries those again"
        return f"{folder.root}: no trial gave a result with every seed of search.confirm ({listed}){detail}"
    return f"{folder.root}: no trial completed{standing(config, records).where} ({listed}){detail}"
