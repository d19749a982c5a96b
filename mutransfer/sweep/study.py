"""The Optuna study of one sweep: opened safely, asked in order, told once per trial."""

from __future__ import annotations

import importlib.metadata
import math
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from mutransfer.config.base import SEEDS
from mutransfer.config.schema import RunConfig
from mutransfer.config.search import SearchSection
from mutransfer.errors import UsageError
from mutransfer.files import disk_errors
from mutransfer.sweep.space import optuna_distributions, point
from mutransfer.training.folder import Outcome

_NAME = "mutransfer"
_STATES: dict[Outcome | None, TrialState] = {
    "completed": TrialState.COMPLETE,
    "diverged": TrialState.PRUNED,  # a bad point, which TPE should learn from
    "out_of_memory": TrialState.FAIL,
    "crashed": TrialState.FAIL,
}
_PACKAGES = ("mutransfer", "torch", "optuna", "numpy")


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the study knows it."""

    number: int
    params: dict[str, Any]
    outcome: Outcome | None = None
    """None while it has not ended."""
    value: float | None = None
    """The objective; None unless completed."""
    training_loss: float | None = None
    validation_loss: float | None = None
    steps: int | None = None
    seconds: float | None = None
    seed: int | None = None
    error: str | None = None

    @property
    def score(self) -> float:
        """The objective, and infinity where there is none: sorts last."""
        return math.inf if self.value is None else self.value


class Study:
    """The record of one sweep. The coordinator is its only writer."""

    def __init__(self, path: Path, search: SearchSection | None) -> None:
        """Open the study at `path`; without a `search` it can only be read.

        Raises:
            UsageError: the file is missing, truncated, damaged, or no study of ours.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._path = path
        self._distributions: dict[str, BaseDistribution] = optuna_distributions(search) if search else {}
        _require_sound(path)
        try:
            # Checking the schema's version imports alembic; who only reads need not wait for it.
            storage = optuna.storages.RDBStorage(
                _url(path), skip_compatibility_check=search is None, skip_table_creation=search is None
            )
            self._study = optuna.load_study(study_name=_NAME, storage=storage)
        except (SQLAlchemyError, KeyError, RuntimeError, ValueError) as error:
            raise _damaged(path, error) from error
        if search is not None:
            self._study.sampler = _sampler(search, len(self._study.get_trials(deepcopy=False)))

    @classmethod
    def create(cls, path: Path, config: RunConfig, attributes: dict[str, Any]) -> Study:
        """Make the study under a temporary name and rename it: a kill in between leaves none, never half of one."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        temporary = path.with_name(".study.db.partial")
        with disk_errors(path):
            temporary.unlink(missing_ok=True)
            storage = optuna.storages.RDBStorage(_url(temporary))
            study = optuna.create_study(study_name=_NAME, storage=storage, direction="minimize")
            for key, value in {"versions": versions(), **attributes}.items():
                study.set_user_attr(key, value)
            storage.engine.dispose()
            temporary.replace(path)
        return cls(path, config.require_search())

    @property
    def attributes(self) -> dict[str, Any]:
        """What was saved with the study: versions, data fingerprint, repeats."""
        return dict(self._study.user_attrs)

    def set_attribute(self, key: str, value: Any) -> None:
        """Save plain data with the study."""
        with self._writing():
            self._study.set_user_attr(key, value)

    def records(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return [_record(trial) for trial in self._study.get_trials(deepcopy=False)]

    def unfinished(self) -> list[TrialRecord]:
        """Trials that were asked for and never told, as a kill leaves them, their params completed."""
        found = []
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            with self._writing():
                self._suggest(optuna.trial.Trial(self._study, trial._trial_id))
            found.append(_record(self._study.get_trials(deepcopy=False)[trial.number]))
        return found

    def ask(self) -> TrialRecord:
        """The next trial; its number is one more than the last one's."""
        with self._writing():
            trial = self._study.ask()
            params = self._suggest(trial)
        return TrialRecord(trial.number, params)

    def tell(self, record: TrialRecord) -> None:
        """Save how a trial ended; once, since an ended trial is refused by Optuna."""
        trial = self._study.get_trials(deepcopy=False)[record.number]
        handle = optuna.trial.Trial(self._study, trial._trial_id)
        with self._writing():
            for key in ("outcome", "training_loss", "validation_loss", "steps", "seconds", "seed", "error"):
                if getattr(record, key) is not None:
                    handle.set_user_attr(key, getattr(record, key))
            self._study.tell(record.number, values=record.value, state=_STATES[record.outcome])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what the disk refuses into one clear message; the trial at hand is run again on resume."""
        try:
            yield
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UsageError(f"{self._path}: study cannot be written ({reason}); the same command continues") from error

    def _suggest(self, trial: optuna.trial.Trial) -> dict[str, Any]:
        """Draw every hparam that the trial does not have yet."""
        for name, distribution in self._distributions.items():
            if isinstance(distribution, optuna.distributions.FloatDistribution):
                trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
            elif isinstance(distribution, optuna.distributions.CategoricalDistribution):
                trial.suggest_categorical(name, distribution.choices)
        return dict(trial.params)


class _PointSampler(BaseSampler):
    """Gives trial k the point that `space.point` says, whatever happened before."""

    def __init__(self, search: SearchSection) -> None:
        self._search = search

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return point(self._search, trial.number)[param_name]


def _sampler(search: SearchSection, trials: int) -> BaseSampler:
    """The sampler for what follows `trials` trials."""
    if search.sampler == "tpe":
        # Its random state is not saved: the same seed again would draw the first trials again.
        return TPESampler(seed=(search.seed + trials) % SEEDS, constant_liar=True)
    return _PointSampler(search)


def versions() -> dict[str, str]:
    """Versions of the packages that decide what comes out."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _url(path: Path) -> str:
    return URL.create("sqlite", database=str(path.resolve())).render_as_string()


def _require_sound(path: Path) -> None:
    """Refuse a damaged file before Optuna sees it: Optuna would fill an empty one with a new study."""
    if not path.is_file():
        raise UsageError(f"{path}: no such study")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path}: study cannot be read")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)
        try:
            verdict = connection.execute("PRAGMA quick_check").fetchone()[0]
            known = connection.execute("SELECT count(*) FROM studies WHERE study_name = ?", (_NAME,)).fetchone()[0]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise _damaged(path, error) from error
    if verdict != "ok" or not known:
        raise _damaged(path, verdict if verdict != "ok" else "it holds no study of mutransfer")


def _damaged(path: Path, reason: object) -> UsageError:
    first_line = str(reason).splitlines()[0] if str(reason) else type(reason).__name__
    return UsageError(
        f"{path}: study file is damaged ({first_line}); restore it from a backup, or move its folder away to start over"
    )


def _record(trial: FrozenTrial) -> TrialRecord:
    attributes = trial.user_attrs
    return TrialRecord(
        number=trial.number,
        params=dict(trial.params),
        outcome=attributes.get("outcome") if trial.state.is_finished() else None,
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        training_loss=attributes.get("training_loss"),
        validation_loss=attributes.get("validation_loss"),
        steps=attributes.get("steps"),
        seconds=attributes.get("seconds"),
        seed=attributes.get("seed"),
        error=attributes.get("error"),
    )


def completed(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials with an objective, best first; ties go to the lower number."""
    usable = [record for record in records if record.value is not None]
    return sorted(usable, key=lambda record: (record.score, record.number))
