"""The dispatcher: sends trials to workers, alone or in packs, and writes their results into the study."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutransfer.config.schema import RunConfig
from mutransfer.errors import Interrupted, NothingUsable
from mutransfer.executors.base import Executor, Job, JobFailed, Stop, WorkerDied
from mutransfer.files import make_folder, write_atomic
from mutransfer.sweep.confirmation import Repeat, confirmation, repeat_seed, without_crashes
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.packing.measure import Packing
from mutransfer.sweep.record import TrialRecord, completed
from mutransfer.sweep.stages import Standing, entrants, finalists, horizons
from mutransfer.training.folder import TrainResult

if TYPE_CHECKING:
    from mutransfer.sweep.pruning import Pruning
    from mutransfer.sweep.study import Study

_POLL_SECONDS = 0.2
# This many crashes before any success have one common cause.
_HOPELESS = 3


class Observer:
    """What a caller may watch; does nothing by itself."""

    def noted(self, text: str) -> None:
        """Called with a note of the data's loader, such as how many examples are cut."""

    def started(self, folder: SweepFolder, done: int, total: int, workers: int) -> None:
        """Called once, with the number of trials that are done already."""

    def shaped(self, pack: int, why: str) -> None:
        """Called with the number of trials that a worker trains at once, when it was measured or has changed."""

    def arranged(self, workers: str, why: str) -> None:
        """Called where fewer workers with more threads, or several on a GPU, were measured to be faster."""

    def staged(self, stage: int, stages: int, steps: int, done: int, total: int) -> None:
        """Called when a stage of several begins; later counts are of its `total` trials."""

    def ended(self, record: TrialRecord, done: int, total: int, best: TrialRecord | None) -> None:
        """Called when a trial has ended and is saved."""

    def repeated(self, number: int, seed: int, value: float | None, outcome: str) -> None:
        """Called when a top trial has been trained with a further seed; without a value, `outcome` is the reason."""

    def retrying(self, number: int, reason: str) -> None:
        """Called when a trial that crashed, or ran out of memory by itself, is tried again."""


@dataclass(frozen=True)
class _Task:
    """A trial to train, or a top trial again with another seed (`repeat` > 0)."""

    record: TrialRecord
    repeat: int = 0
    attempt: int = 0


class Dispatcher:
    """Keeps the workers of one sweep busy and the study up to date."""

    def __init__(
        self,
        config: RunConfig,
        folder: SweepFolder,
        study: Study,
        executor: Executor,
        observer: Observer,
        should_stop: Stop,
        pack: Packing,
    ) -> None:
        self._pack = pack
        self._config, self._search, self._folder, self._study = config, config.require_search(), folder, study
        self._executor, self._observer, self._should_stop = executor, observer, should_stop
        self._horizons = horizons(config)
        self._asked = len(study.records())
        self._works = any(record.outcome not in (None, "crashed") for record in study.records())
        self._waiting: deque[_Task] = deque()
        self._doubtful: list[TrialRecord] = []
        self._ended: list[TrialRecord] = []
        self._pruning: Pruning | None = None
        if self._search.pruner is not None:
            from mutransfer.sweep.pruning import Pruning

            self._pruning = Pruning(config, self._search.pruner, study.records(), study.curves())

    def run(self) -> None:
        """Every trial in every stage that it reaches, then the best ones with further seeds.

        A stage begins when the one before has ended, so all tasks at one time have the same horizon and make packs.
        """
        for stage, steps in enumerate(self._horizons, start=1):
            self._begin(stage)
            if stage == 1:
                self._observer.started(self._folder, self._done, self._total, self._executor.capacity)
            if len(self._horizons) > 1:
                self._observer.staged(stage, len(self._horizons), steps, self._done, self._total)
            self._work(self._next_trials if stage == 1 else lambda count: [])
            self._give_up_if_nothing_works(at_least=1)
        kept = without_crashes(self._repeats)
        if kept != self._repeats:
            self._study.set_attribute("repeats", kept)
        while missing := self._missing_repeats():  # again where a failure makes the next best trial a candidate
            self._waiting.extend(missing)
            self._work(lambda count: [])

    def _begin(self, stage: int) -> None:
        """Count the trials of a stage, and queue those that are not trained yet."""
        records = entrants(self._config, self._study.records(), stage)
        self._stage = stage
        self._done = sum(record.outcome is not None for record in records)
        self._total = max(self._search.trial_count, self._asked) if stage == 1 else len(records)
        self._best = next(iter(completed(records)), None)
        unfinished = self._study.unfinished() if stage == 1 else [one for one in records if one.outcome is None]
        self._waiting = deque(_Task(record) for record in unfinished)

    def _next_trials(self, count: int) -> list[_Task]:
        count = min(count, self._total - self._asked)
        self._asked += count
        return [_Task(record) for record in self._study.ask(count)]

    def _missing_repeats(self) -> list[_Task]:
        ranking = completed(finalists(self._config, self._study.records()))
        return [_Task(record, repeat) for record, repeat in confirmation(self._config, ranking, self._repeats).missing]

    @property
    def _repeats(self) -> dict[str, dict[str, Repeat]]:
        found: dict[str, dict[str, Repeat]] = self._study.attributes.get("repeats", {})
        return found

    def _work(self, next_tasks: Callable[[int], list[_Task]]) -> None:
        """Keep the executor full until there is no task and none in flight."""
        flying: dict[futures.Future[Any], list[_Task]] = {}
        while True:
            free = self._executor.capacity - len(flying)
            wanted = free * self._pack.size - len(self._waiting)
            if free and wanted > 0 and not self._should_stop():
                self._waiting.extend(next_tasks(wanted))
            while self._waiting and len(flying) < self._executor.capacity and not self._should_stop():
                tasks = self._next_pack(self._executor.capacity - len(flying))
                flying[self._executor.submit(self._job(tasks))] = tasks
            if self._should_stop():
                to_go = self._done == self._total and self._missing_repeats()
                repeats = " and the best ones to confirm" if to_go else ""
                where = Standing(self._stage, len(self._horizons), self._done, self._total).where
                done = f"{self._done} of {self._total} trials done{where}{repeats}"
                raise Interrupted(f"stopped with {done}; the same command continues")
            if not flying:
                return
            landed, _ = futures.wait(flying, timeout=_POLL_SECONDS, return_when=futures.FIRST_COMPLETED)
            try:
                for future in sorted(landed, key=lambda future: flying[future][0].record.number):
                    self._land(flying.pop(future), future)
            finally:
                self._save()

    def _next_pack(self, free: int) -> list[_Task]:
        """The tasks for one worker: a pack, or fewer so that the free workers have equal shares."""
        tasks = [self._waiting.popleft()]
        size = min(self._pack.size, -(-(1 + len(self._waiting)) // free))
        if self._pruning is not None:
            size = min(size, self._pruning.largest_pack(self._executor.capacity))
        # A trial that crashed its worker before trains alone, as it may crash again.
        while len(tasks) < size and not tasks[0].attempt and not self._waiting[0].attempt:
            first, last = tasks[0].record.number, self._waiting[0].record.number
            if self._pruning is not None and self._pruning.apart(first, last):
                break
            tasks.append(self._waiting.popleft())
        return tasks

    def _job(self, tasks: Sequence[_Task]) -> Job:
        configs, folders = [], []
        for task in tasks:
            trial = self._config.at_point(task.record.params)
            horizon = {"steps": self._horizons[task.record.stage - 1]} if self._search.stages else {}
            training = trial.training.model_copy(update={"seed": self._seed(task), **horizon})
            configs.append(trial.model_copy(update={"training": training}).resolved())
            folders.append(str(self._task_folder(task).resolve()))
        arguments = {"configs": configs, "folders": folders, "packed": self._pack.packed}
        if not self._config.trainer.watched:
            return Job("mutransfer.sweep.trial:run_trials", arguments)
        answer = None
        if self._pruning is not None and not tasks[0].repeat:
            arguments["prune_every"] = self._config.pruning_every
            answer = self._pruning.answer([task.record.number for task in tasks])
        return Job("mutransfer.sweep.trial:run_trials", arguments, self._search.hang_after, answer)

    def _task_folder(self, task: _Task) -> Path:
        return self._folder.trial(task.record.number, task.repeat, task.record.stage)

    def _seed(self, task: _Task) -> int:
        """The seed of all trials, a repeat's own, or the point's where the search goes across seeds."""
        seed = task.record.params.get("training.seed")
        return seed if isinstance(seed, int) else repeat_seed(self._config, task.repeat)

    def _land(self, tasks: Sequence[_Task], future: futures.Future[Any]) -> None:
        """Take the results of a pack; a MutransferError concerns the whole sweep and is raised."""
        try:
            results = [TrainResult(**result) for result in future.result()]
        except (JobFailed, WorkerDied) as error:
            for task in tasks:
                self._land_crash(task, error)
            return
        if len(tasks) > 1 and all(result.outcome == "out_of_memory" for result in results):
            self._pack = replace(self._pack, size=max(1, min(self._pack.size, len(tasks) // 2)))
            self._study.set_attribute("packing", asdict(self._pack))
            self._observer.shaped(self._pack.size, f"a pack of {len(tasks)} ran out of memory")
            self._waiting.extendleft(reversed(tasks))
            self._in_order()
            return
        for task, result in zip(tasks, results, strict=True):
            # Another program may have used the memory.
            if result.outcome != "out_of_memory" or not self._tried_again(task, "it ran out of memory"):
                self._land_result(task, result)

    def _land_crash(self, task: _Task, error: JobFailed | WorkerDied) -> None:
        """Try again, alone; or give up on this trial."""
        if isinstance(error, JobFailed):
            write_atomic(make_folder(self._task_folder(task)) / "error.txt", error.traceback)
        if not self._tried_again(task, str(error)):
            failed = replace(task, record=replace(task.record, error=str(error)))
            self._land_result(failed, TrainResult("crashed"))

    def _tried_again(self, task: _Task, reason: str) -> bool:
        """Queue a trial once more, unless its retries are used up."""
        if task.attempt == self._search.retries:
            return False
        self._observer.retrying(task.record.number, reason)
        self._waiting.append(replace(task, attempt=task.attempt + 1))
        self._in_order()
        return True

    def _in_order(self) -> None:
        """Where a pruner waits for trials with lower numbers, these must run first."""
        if self._pruning is not None:
            self._waiting = deque(sorted(self._waiting, key=lambda one: one.record.number))

    def _land_result(self, task: _Task, result: TrainResult) -> None:
        if result.outcome != "crashed":
            self._works = True
        value = result.objective(self._search.objective) if result.outcome == "completed" else None
        if task.repeat:
            failure = {"outcome": result.outcome, "error": task.record.error}
            self._save_repeat(task, failure if value is None else value)
            return
        if self._pruning is not None:
            self._pruning.settle(task.record.number, result.outcome, value)
        figures = {**result.figures(), "seconds": round(result.seconds, 3)}
        record = replace(task.record, outcome=result.outcome, value=value, seed=self._seed(task), **figures)
        # Crashes count against trials only after a success; before that the cause is likely not the trial.
        if not self._works:
            self._doubtful.append(record)
            self._give_up_if_nothing_works(at_least=_HOPELESS)
            return
        self._ended += [*self._doubtful, record]
        self._doubtful.clear()

    def _give_up_if_nothing_works(self, *, at_least: int) -> None:
        """End the sweep when many trials have crashed and none has succeeded; no crash is recorded."""
        if len(self._doubtful) >= at_least:
            raise NothingUsable(
                f"{self._folder.root}: every trial crashed, the last with: {self._doubtful[-1].error}. No crash is "
                "recorded: fix the cause, and the same command tries again. (A script that calls run_sweep has to do "
                'so under if __name__ == "__main__":)'
            )

    def _save(self) -> None:
        """Write what has landed, in one transaction."""
        ended, self._ended = self._ended, []
        curves = {record.number: self._pruning.curve(record.number) for record in ended} if self._pruning else None
        self._study.tell(ended, curves)
        self._study.beat()
        for record in ended:
            self._done += 1
            self._best = next(iter(completed([one for one in (self._best, record) if one is not None])), None)
            self._observer.ended(record, self._done, self._total, self._best)

    def _save_repeat(self, task: _Task, value: Repeat) -> None:
        number, seed = task.record.number, repeat_seed(self._config, task.repeat)
        of_trial = {**self._repeats.get(str(number), {}), str(seed): value}
        self._study.set_attribute("repeats", {**self._repeats, str(number): of_trial})
        known, outcome = (None, str(value["outcome"])) if isinstance(value, Mapping) else (value, "completed")
        self._observer.repeated(number, seed, known, outcome)
