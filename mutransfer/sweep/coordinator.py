"""The coordinator: owns the study, keeps every worker busy, and loses nothing when it is stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent import futures
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mutransfer.config.load import differences, load_config, save_config
from mutransfer.config.schema import RunConfig
from mutransfer.data import load_data
from mutransfer.errors import Interrupted, NothingUsable, UsageError
from mutransfer.executors.base import Executor, Job, JobFailed, WorkerDied
from mutransfer.executors.devices import worker_devices
from mutransfer.executors.local import LocalExecutor
from mutransfer.files import make_folder, write_atomic
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.results import write_results
from mutransfer.sweep.selection import Selection, missing_repeats, repeat_seed, select
from mutransfer.sweep.study import Study, TrialRecord, completed
from mutransfer.training.folder import TrainResult

# May differ when a sweep is continued: none of them changes what trial k is.
CHANGEABLE = ("search.trials", "search.retries", "search.repeats", "provenance")
_POLL_SECONDS = 0.2
_UNCHECKED = "skipped"
# So many trials crashing before any has worked are one problem, not so many.
_HOPELESS = 3


class Observer:
    """What a caller may watch; does nothing by itself."""

    def started(self, folder: SweepFolder, done: int, total: int, workers: int) -> None:
        """Called once: so many of the trials are done already."""

    def ended(self, record: TrialRecord, done: int, total: int, best: TrialRecord | None) -> None:
        """Called when a trial has ended and is saved."""

    def repeated(self, number: int, seed: int, value: float | None) -> None:
        """Called when the best trial has been trained with a further seed."""

    def retrying(self, number: int, reason: str) -> None:
        """Called when a crashed trial is tried again."""


@dataclass(frozen=True)
class SweepResult:
    """What a finished sweep left."""

    folder: SweepFolder
    records: tuple[TrialRecord, ...]
    selection: Selection


def run_sweep(
    config: RunConfig,
    *,
    runs: Path = Path("runs"),
    executor: Callable[[], Executor] | None = None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    check: Callable[[Path], str] | None = None,
) -> SweepResult:
    """Run or continue the sweep of `config` in `runs/<name>`.

    Args:
        executor: makes the executor, once everything that can be refused has been checked; by default a worker
            process per device of this machine.
        should_stop: asked several times a second; when true the workers are ended.
        check: called with the run folder before the first trial, unless an earlier call has passed it; what it
            returns goes into the study's records, what it raises ends the sweep before it begins.

    Raises:
        ConfigError: the config has no search section.
        UsageError: the folder holds another config's sweep, other data, or damaged files, is in use, or
            cannot be written.
        DataError: the data cannot be used.
        NothingUsable: every trial diverged, crashed or ran out of memory.
        Interrupted: `should_stop` was true; the same call continues.
    """
    if config.require_search().across:
        raise UsageError(
            f"{config.name}: search.across has no single winner to sweep for; mutransfer transfer-check runs such grids"
        )
    folder = SweepFolder(runs / config.name)
    records, selection = _run(config, folder, executor, observer, should_stop, check)
    if selection is None:
        raise NothingUsable(_why_nothing(folder, records))
    return SweepResult(folder, tuple(records), selection)


def run_points(
    config: RunConfig,
    folder: SweepFolder,
    *,
    executor: Callable[[], Executor] | None = None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[TrialRecord, ...]:
    """Run or continue a grid across compute settings (`search.across`) in `folder`.

    Nothing is selected: every point is a result, those that diverged included.

    Raises:
        ConfigError, UsageError, DataError, Interrupted: as `run_sweep`.
        NothingUsable: every point crashed.
    """
    return tuple(_run(config, folder, executor, observer, should_stop)[0])


def _run(
    config: RunConfig,
    folder: SweepFolder,
    executor: Callable[[], Executor] | None,
    observer: Observer | None,
    should_stop: Callable[[], bool],
    check: Callable[[Path], str] | None = None,
) -> tuple[list[TrialRecord], Selection | None]:
    """Train what is missing and write the results; the selection is None where there is nothing to select."""
    search = config.require_search()
    make_executor = executor or (lambda: LocalExecutor(worker_devices(threads=search.threads)))
    load_data.cache_clear()  # what this process has read before may have changed since
    data = load_data(config.data).fingerprint
    with ExitStack() as stack:
        stack.enter_context(folder.sole_coordinator())
        # Before the study exists: a config that fails can be mended and swept under the same name.
        checked = check(folder.root) if check is not None and not folder.exists else None
        study = stack.enter_context(closing(_open_study(folder, config, data, should_stop)))
        if checked is None and check is not None and study.attributes.get("check", _UNCHECKED) == _UNCHECKED:
            checked = check(folder.root)
        study.set_attribute("check", checked or study.attributes.get("check", _UNCHECKED))
        crew = make_executor()
        try:
            _Coordinator(config, folder, study, crew, observer or Observer(), should_stop).run()
        except BaseException:
            with suppress(UsageError):  # a full disk refuses these too; why the sweep ended is what counts
                _finish(config, folder, study, crew)
            raise
        return _finish(config, folder, study, crew)


def _finish(
    config: RunConfig, folder: SweepFolder, study: Study, crew: Executor
) -> tuple[list[TrialRecord], Selection | None]:
    """End the workers and write the results of the trials there are."""
    crew.close()
    records = study.records()
    selection = None
    if not config.require_search().across:
        selection = select(config, records, study.attributes.get("repeats", {}))
    write_results(folder, config, records, selection)
    return records, selection


def _open_study(folder: SweepFolder, config: RunConfig, data: str, should_stop: Callable[[], bool]) -> Study:
    """Create the study, or continue the one that stands there if it is this config's."""
    if not folder.exists:
        if folder.trials.exists():
            raise UsageError(f"{folder.root}: has trials but no study.db; move it away to start over")
        save_config(config, folder.config)
        return Study.create(folder, config, {"data": data}, should_stop=should_stop)
    study = Study(folder.study, config.search, should_stop=should_stop)
    try:
        _require_same(study, folder, config, data)
    except BaseException:
        study.close()
        raise
    save_config(config, folder.config)
    return study


def _require_same(study: Study, folder: SweepFolder, config: RunConfig, data: str) -> None:
    changed = differences(load_config(folder.config), config, ignore=CHANGEABLE)
    if changed:
        raise UsageError(
            f"{folder.root}: holds the sweep of another config; give this one another name. It differs in\n  "
            + "\n  ".join(changed)
        )
    if study.attributes.get("data") != data:
        raise UsageError(
            f"{folder.root}: the data has changed since this sweep began, so further trials would not compare; "
            "give the config another name"
        )


def _why_nothing(folder: SweepFolder, records: list[TrialRecord]) -> str:
    counts: dict[str, int] = {}
    for record in records:
        outcome = (record.outcome or "unfinished").replace("_", " ")
        counts[outcome] = counts.get(outcome, 0) + 1
    listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    errors = [record.error for record in records if record.error]
    detail = f"; the last error was: {errors[-1]}" if errors else "; try lower learning rates"
    return f"{folder.root}: no trial completed ({listed}){detail}"


@dataclass(frozen=True)
class _Task:
    """A trial to train, or the best trial again with another seed (`repeat` > 0)."""

    record: TrialRecord
    repeat: int = 0
    attempt: int = 0


class _Coordinator:
    def __init__(
        self,
        config: RunConfig,
        folder: SweepFolder,
        study: Study,
        executor: Executor,
        observer: Observer,
        should_stop: Callable[[], bool],
    ) -> None:
        self._config, self._search, self._folder, self._study = config, config.require_search(), folder, study
        self._executor, self._observer, self._should_stop = executor, observer, should_stop
        records = study.records()
        self._asked = len(records)
        self._done = sum(record.outcome is not None for record in records)
        self._total = max(self._search.trial_count, self._asked)
        self._best = next(iter(completed(records)), None)
        self._waiting: deque[_Task] = deque(_Task(record) for record in study.unfinished())
        self._works = any(record.outcome not in (None, "crashed") for record in records)
        self._doubtful: list[TrialRecord] = []
        self._ended: list[TrialRecord] = []

    def run(self) -> None:
        """Every trial, then the repeats of the best one."""
        self._observer.started(self._folder, self._done, self._total, self._executor.capacity)
        self._work(self._next_trials)
        self._give_up_if_nothing_works(at_least=1)
        self._waiting.extend(self._missing_repeats())
        self._work(lambda count: [])

    def _next_trials(self, count: int) -> list[_Task]:
        count = min(count, self._total - self._asked)
        self._asked += count
        return [_Task(record) for record in self._study.ask(count)]

    def _missing_repeats(self) -> list[_Task]:
        if self._best is None:
            return []
        repeats = missing_repeats(self._config, self._best, self._study.attributes.get("repeats", {}))
        return [_Task(self._best, repeat) for repeat in repeats]

    def _work(self, next_tasks: Callable[[int], list[_Task]]) -> None:
        """Keep the executor full until there is no task and none in flight."""
        flying: dict[futures.Future[Any], _Task] = {}
        while True:
            free = self._executor.capacity - len(flying)
            if free > len(self._waiting) and not self._should_stop():
                self._waiting.extend(next_tasks(free - len(self._waiting)))
            while self._waiting and len(flying) < self._executor.capacity and not self._should_stop():
                task = self._waiting.popleft()
                flying[self._executor.submit(self._job(task))] = task
            if self._should_stop():
                to_go = self._done == self._total and self._missing_repeats()
                repeats = " and repeats of the best one to go" if to_go else ""
                raise Interrupted(
                    f"stopped with {self._done} of {self._total} trials done{repeats}; the same command continues"
                )
            if not flying:
                return
            landed, _ = futures.wait(flying, timeout=_POLL_SECONDS, return_when=futures.FIRST_COMPLETED)
            try:
                for future in sorted(landed, key=lambda future: flying[future].record.number):
                    self._land(flying.pop(future), future)
            finally:
                self._save()

    def _job(self, task: _Task) -> Job:
        trial = self._config.at_point(task.record.params)
        training = trial.training.model_copy(update={"seed": self._seed(task)})
        trial = trial.model_copy(update={"training": training})
        folder = self._folder.trial(task.record.number, task.repeat)
        return Job("mutransfer.sweep.trial:run_trial", {"config": trial.resolved(), "folder": str(folder.resolve())})

    def _seed(self, task: _Task) -> int:
        """The seed of all trials, a repeat's own, or the point's where the search goes across seeds."""
        return int(task.record.params.get("training.seed", repeat_seed(self._config, task.repeat)))

    def _land(self, task: _Task, future: futures.Future[Any]) -> None:
        """Save what came back; a MutransferError is about the whole sweep and goes up."""
        number = task.record.number
        try:
            result = TrainResult(**future.result())
        except (JobFailed, WorkerDied) as error:
            if isinstance(error, JobFailed):
                root = make_folder(self._folder.trial(number, task.repeat))
                write_atomic(root / "error.txt", error.traceback)
            if task.attempt < self._search.retries:
                self._observer.retrying(number, str(error))
                self._waiting.append(replace(task, attempt=task.attempt + 1))
                return
            result = TrainResult("crashed", 0, None, None, 0.0, 0)
            task = replace(task, record=replace(task.record, error=str(error)))
        if result.outcome != "crashed":
            self._works = True
        value = result.objective(self._search.objective) if result.outcome == "completed" else None
        if task.repeat:
            self._save_repeat(number, repeat_seed(self._config, task.repeat), value)
            return
        record = replace(
            task.record,
            outcome=result.outcome,
            value=value,
            training_loss=result.training_loss,
            validation_loss=result.validation_loss,
            steps=result.steps,
            seconds=round(result.seconds, 3),
            seed=self._seed(task),
        )
        # Crashes count against trials only once something has worked: until then the cause is likelier elsewhere.
        if not self._works:
            self._doubtful.append(record)
            self._give_up_if_nothing_works(at_least=_HOPELESS)
            return
        self._ended += [*self._doubtful, record]
        self._doubtful.clear()

    def _give_up_if_nothing_works(self, *, at_least: int) -> None:
        """End the sweep when so many trials have crashed and none has worked; none of them is recorded."""
        if len(self._doubtful) >= at_least:
            raise NothingUsable(
                f"{self._folder.root}: every trial crashed, the last with: {self._doubtful[-1].error}. No crash is "
                "recorded: mend the cause, and the same command tries again. (A script that calls run_sweep has to do "
                'so under if __name__ == "__main__":)'
            )

    def _save(self) -> None:
        """Write what has landed, in one transaction."""
        ended, self._ended = self._ended, []
        self._study.tell(ended)
        self._study.beat()
        for record in ended:
            self._done += 1
            self._best = min(
                (r for r in (self._best, record) if r is not None and r.value is not None),
                key=lambda r: (r.score, r.number),
                default=None,
            )
            self._observer.ended(record, self._done, self._total, self._best)

    def _save_repeat(self, number: int, seed: int, value: float | None) -> None:
        repeats = self._study.attributes.get("repeats", {})
        of_trial = {**repeats.get(str(number), {}), str(seed): value}
        self._study.set_attribute("repeats", {**repeats, str(number): of_trial})
        self._observer.repeated(number, seed, value)
