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

    def update(self, done: int, total: int, news: str) -> None:
        """Draw the bar at `done` of `total`, the news behind it."""
        if not self.shown:
            return
        if self._progress is None:
            self._progress = RichProgress(
                TextColumn(self._what),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[news]}"),
                console=self._console,
            )
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


class SweepProgress(Observer):
    """Trials done, best so far, time left."""

    def __init__(self) -> None:
        self._bar = Bar("trials")
        self._began, self._done_before = time.monotonic(), 0
        self._noted: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def noted(self, text: str) -> None:  # noqa: D102
        if text not in self._noted:
            self._bar.line(text)
        self._noted.add(text)

    def started(self, folder: SweepFolder, done: int, total: int, workers: int) -> None:  # noqa: D102
        self._began, self._done_before = time.monotonic(), done
        already = f", {done} of them done already" if done else ""
        self._bar.line(f"Sweeping {total} trials{already} in {folder.root} with {workers} worker(s)")
        self._bar.update(done, total, "starting")

    def shaped(self, pack: int, why: str) -> None:  # noqa: D102
        how = "Trials train one by one" if pack == 1 else f"Trials train in packs of up to {pack}"
        self._bar.line(f"{how}: {why}")

    def arranged(self, workers: str, why: str) -> None:  # noqa: D102
        self._bar.line(f"{workers}: {why}")

    def staged(self, stage: int, stages: int, steps: int, done: int, total: int) -> None:  # noqa: D102
        self._began, self._done_before = time.monotonic(), done
        already = f", {done} of them done already" if done else ""
        self._bar.line(f"Stage {stage} of {stages}: {total} trials of {steps} steps{already}")
        self._bar.update(done, total, "starting")

    def ended(self, record: TrialRecord, done: int, total: int, best: TrialRecord | None) -> None:  # noqa: D102
        rate = (time.monotonic() - self._began) / (done - self._done_before)
        left = f"{ui.duration(rate * (total - done))} left" if done < total else "all trials done"
        leader = "none usable yet" if best is None else f"best {ui.loss(best.value)} (trial {best.number})"
        self._bar.update(done, total, f"{leader}, {left}")
        if not self._bar.shown:
            outcome = ui.loss(record.value) if record.value is not None else str(record.outcome)
            self._bar.line(f"[{done}/{total}] trial {record.number}: {outcome}   {leader}, {left}")

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
        outcome = ui.loss(record.value) if record.value is not None else str(record.outcome)
        rate = (time.monotonic() - self._began) / (done - self._done_before)
        # Small sizes come last and are faster than this says.
        left = f"at most {ui.duration(rate * (total - done))} left" if done < total else "all points done"
        self._bar.update(done, total, f"{what}: {outcome}, {left}")
        if not self._bar.shown:
            self._bar.line(f"[{done}/{total}] {what}: {outcome}   {left}")


class TrainProgress:
    """Steps done, loss, time left; off a terminal a line every tenth of the run."""

    def __init__(self) -> None:
        self._bar = Bar("steps")
        self._began: tuple[float, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def __call__(self, step: int, steps: int, loss: float) -> None:
        """Show that `step` of `steps` are done, the last with this loss."""
        if self._began is None:
            self._began = (time.monotonic(), step - 1)
        rate = (time.monotonic() - self._began[0]) / (step - self._began[1])
        news = f"loss {loss:.4f}, {ui.duration(rate * (steps - step))} left"
        self._bar.update(step, steps, news)
        if not self._bar.shown and (step * 10 // steps > (step - 1) * 10 // steps):
            self._bar.line(f"step {step}/{steps}: {news}")


class PrepareProgress:
    """Megabytes read, tokens, speed; off a terminal a line every tenth of the corpus or shard."""

    def __init__(self) -> None:
        self._bar, self._phase = Bar("MB read"), ""
        self._began, self._read_before = time.monotonic(), 0
        self._said = (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def __call__(self, news: PrepareNews) -> None:
        """Show how far it is."""
        if news.phase != self._phase:
            self._bar.close()
            self._bar.line({"vocabulary": "Training the tokenizer", "tokens": "Writing shards"}[news.phase])
            self._phase, self._began, self._read_before = news.phase, time.monotonic(), news.done
            self._said = (0, 0)
        seconds = max(time.monotonic() - self._began, 1e-9)
        speed = (news.done - self._read_before) / seconds
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
