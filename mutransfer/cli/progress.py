"""Progress on stderr: a bar on a terminal, plain lines elsewhere. Imported by verbs once they have work to show."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress

from mutransfer.cli import console as ui
from mutransfer.data.prepare import PrepareNews
from mutransfer.sweep.dispatcher import Observer
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.record import TrialRecord


class Bar:
    """A bar where there is a terminal; nothing elsewhere."""

    def __init__(self, what: str) -> None:
        self._console = ui.console(stderr=True)
        self._what = what
        self._progress: RichProgress | None = None
        self._task: Any = None

    @property
    def shown(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self._console.is_terminal

    def update(self, done: int, total: int, news: str, line: str | None = None) -> None:
        """Draw the bar at `done` of `total`, the news behind it; `line`, if any, stands for it elsewhere."""
        if not self.shown:
            if line is not None:
                self.line(f"[{done}/{total}] {line}")
            return
        if self._progress is None:
            columns = TextColumn(self._what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[news]}")
            self._progress = RichProgress(*columns, console=self._console)
            self._task = self._progress.add_task(self._what, total=total, news=news)
            self._progress.start()
        self._progress.update(self._task, completed=done, total=total, news=news)

    def line(self, text: str) -> None:
        """A line that stays, above the bar."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _Progress:
    """Closes its bar at the end of a `with` block."""

    def __init__(self, what: str) -> None:
        self._bar = Bar(what)
        self._began, self._done_before = time.monotonic(), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()


class SweepProgress(_Progress, Observer):
    """Trials done, best so far, time left."""

    def __init__(self) -> None:
        super().__init__("trials")
        self._noted: set[str] = set()

    def noted(self, text: str) -> None:  # noqa: D102
        if text not in self._noted:
            self._bar.line(text)
        self._noted.add(text)

    def started(self, folder: SweepFolder, done: int, total: int, workers: int) -> None:  # noqa: D102
        self._begin(f"Sweeping {total} trials", done, total, f" in {folder.root} with {workers} worker(s)")

    def _begin(self, what: str, done: int, total: int, where: str = "") -> None:
        self._began, self._done_before = time.monotonic(), done
        already = f", {done} of them done already" if done else ""
        self._bar.line(f"{what}{already}{where}")
        self._bar.update(done, total, "starting")

    def shaped(self, pack: int, why: str) -> None:  # noqa: D102
        how = "Trials train one by one" if pack == 1 else f"Trials train in packs of up to {pack}"
        self._bar.line(f"{how}: {why}")

    def arranged(self, workers: str, why: str) -> None:  # noqa: D102
        self._bar.line(f"{workers}: {why}")

    def staged(self, stage: int, stages: int, steps: int, done: int, total: int) -> None:  # noqa: D102
        self._begin(f"Stage {stage} of {stages}: {total} trials of {steps} steps", done, total)

    def ended(self, record: TrialRecord, done: int, total: int, best: TrialRecord | None) -> None:  # noqa: D102
        leader = "none usable yet" if best is None else f"best {ui.loss(best.value)} (trial {best.number})"
        news = f"{leader}, {self._left(done, total, 'trials')}"
        self._bar.update(done, total, news, f"trial {record.number}: {_outcome(record)}   {news}")

    def _left(self, done: int, total: int, what: str) -> str:
        rate = (time.monotonic() - self._began) / (done - self._done_before)
        return f"{ui.duration(rate * (total - done))} left" if done < total else f"all {what} done"

    def repeated(self, number: int, seed: int, value: float | None, outcome: str) -> None:  # noqa: D102
        self._bar.line(f"trial {number} again with seed {seed}: {ui.loss(value) if value is not None else outcome}")

    def retrying(self, number: int, reason: str) -> None:  # noqa: D102
        self._bar.line(f"trial {number} is tried again: {reason}")


class CheckProgress(SweepProgress):
    """Points done and what each of them is; a check has no best one.

    Nothing is shown before training begins, so that whatever is refused is refused first.
    """

    def __init__(self, announce: Callable[[], None]) -> None:
        super().__init__()
        self._announce: Callable[[], None] | None = announce
        self._held: list[str] = []

    def noted(self, text: str) -> None:  # noqa: D102
        if self._announce is None:
            super().noted(text)
        else:
            self._held.append(text)

    def started(self, folder: SweepFolder, done: int, total: int, workers: int) -> None:  # noqa: D102
        if self._announce is not None:
            self._announce()
            self._announce = None
            for text in self._held:
                super().noted(text)
        super().started(folder, done, total, workers)

    def ended(self, record: TrialRecord, done: int, total: int, best: TrialRecord | None) -> None:  # noqa: D102
        del best
        what = ", ".join(f"{name.rpartition('.')[2]} {ui.number(value)}" for name, value in record.params.items())
        # Small sizes come last and are faster than this says.
        left = ("at most " if done < total else "") + self._left(done, total, "points")
        result = f"{what}: {_outcome(record)}"
        self._bar.update(done, total, f"{result}, {left}", f"{result}   {left}")


def _outcome(record: TrialRecord) -> str:
    return ui.loss(record.value) if record.value is not None else str(record.outcome)


class TrainProgress(_Progress):
    """Steps done, loss, time left; off a terminal a line every tenth of the run."""

    def __init__(self) -> None:
        super().__init__("steps")
        self._begun = False

    def __call__(self, step: int, steps: int, loss: float) -> None:
        """Show that `step` of `steps` are done, the last with this loss."""
        if not self._begun:
            self._begun, self._began, self._done_before = True, time.monotonic(), step - 1
        rate = (time.monotonic() - self._began) / (step - self._done_before)
        news = f"loss {loss:.4f}, {ui.duration(rate * (steps - step))} left"
        self._bar.update(step, steps, news)
        if not self._bar.shown and (step * 10 // steps > (step - 1) * 10 // steps):
            self._bar.line(f"step {step}/{steps}: {news}")


class PrepareProgress(_Progress):
    """Megabytes read, tokens, speed; off a terminal a line every tenth of the corpus or shard."""

    def __init__(self) -> None:
        super().__init__("MB read")
        self._phase, self._said = "", (0, 0)

    def __call__(self, news: PrepareNews) -> None:
        """Show how far it is."""
        if news.phase != self._phase:
            self._bar.close()
            self._bar.line({"vocabulary": "Training the tokenizer", "tokens": "Writing shards"}[news.phase])
            self._phase, self._began, self._done_before = news.phase, time.monotonic(), news.done
            self._said = (0, 0)
        speed = (news.done - self._done_before) / max(time.monotonic() - self._began, 1e-9)
        parts = [f"{ui.quantity(news.tokens, '')} tokens in {news.shards} whole shards"] if news.tokens else []
        parts += [f"{ui.quantity(speed, 'B')}/s"] if speed > 0 else ["starting"]
        parts += [f"{ui.duration((news.total - news.done) / speed)} left"] if speed > 0 and news.total else []
        text = ", ".join(parts)
        total = max(news.total, news.done, 1)
        self._bar.update(news.done // 10**6, -(-total // 10**6), text)
        said = (news.done * 10 // max(news.total, 1) if news.total else 0, news.shards)
        if not self._bar.shown and said != self._said:
            self._said = said
            self._bar.line(f"{ui.quantity(news.done, 'B')} of {ui.quantity(news.total, 'B')} read: {text}"
                           if news.total else f"{ui.quantity(news.done, 'B')} read: {text}")  # fmt: skip
