"""The Optuna study of one sweep: many trials are asked and told per transaction, each told once."""

from __future__ import annotations

import importlib.metadata
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from mutransfer.config.schema import RunConfig
from mutransfer.config.search import SearchSection
from mutransfer.errors import MutransferError, UsageError
from mutransfer.executors.base import Stop
from mutransfer.files import disk_errors, write_json
from mutransfer.messages import first_problem
from mutransfer.sweep import tables
from mutransfer.sweep.database import Database, cannot_be, optuna_storage, require_revision
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.lease import FREE, KEY, Lease
from mutransfer.sweep.place import Place, read_place
from mutransfer.sweep.record import Curve, StudyAttributes, TrialRecord
from mutransfer.training.folder import FIGURES

T = TypeVar("T")

_PACKAGES = ("mutransfer", "torch", "optuna", "numpy")
_RESULT = "result"
_STAGE = "stage-"
_RESULT_FIELDS = ("outcome", "seed", "error", *FIGURES)


class Study:
    """The record of one sweep. The coordinator is its only writer."""

    def __init__(self, path: Path, search: SearchSection | None, *, should_stop: Stop = lambda: False) -> None:
        """Open the study that `path` stands for (`SweepFolder.study`); without a `search` it can only be read.

        `should_stop` is asked while waiting for a database server, or for another coordinator of this study.

        Raises:
            UsageError: the file is missing, damaged or no study of ours, its database cannot be reached, or another
                coordinator writes to it.
            Interrupted: `should_stop` was true.
        """
        self._place = read_place(path)
        self._database = Database(self._place, writes=search is not None, should_stop=should_stop)
        self._lease: Lease | None = None
        self._writer: _Writer | None = None
        try:
            revision = self._database.read(tables.read_revision)
            if revision is None:
                raise self._database.damaged("it has none of Optuna's tables")
            require_revision(self._place, revision)
            found = self._database.read(lambda connection: tables.study_id(connection, self._place.study))
            if found is None:
                raise self._database.damaged("it holds no study of mutransfer")
            self._id: int = found
            if search is not None:
                self._open_to_write(search, should_stop)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls, folder: SweepFolder, config: RunConfig, attributes: dict[str, Any], *, should_stop: Stop = lambda: False
    ) -> Study:
        """Make a study for the folder, in its own SQLite file or where `search.storage` says.

        The file that stands for it in the folder is the last thing to be made, by a rename: a kill before leaves no
        study, never half of one.
        """
        search = config.require_search()
        attributes = {"versions": versions(), **attributes}
        if search.storage is None:
            path, temporary = folder.own_study, folder.own_study.with_name(".study.db.partial")
            with disk_errors(path):
                temporary.unlink(missing_ok=True)
                _create(Place(temporary), attributes)
                temporary.replace(path)
        else:
            path, name = folder.study_link, f"{config.name}-{secrets.token_hex(6)}"  # unique in any database
            _create(Place(path, name, search.storage), {**attributes, KEY: FREE})
            write_json(path, {"storage": search.storage, "study": name})
        return cls(path, search, should_stop=should_stop)

    @property
    def attributes(self) -> dict[str, Any]:
        """The data saved with the study: versions, data fingerprint, repeats."""
        return self._read_attributes() if self._writer is None else dict(self._writer.attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        """Save plain data with the study."""
        self._write(lambda connection: tables.write_attribute(connection, self._id, key, value))
        self._require_writer().attributes[key] = value

    def records(self) -> list[TrialRecord]:
        """Every trial, by number."""
        if self._writer is not None:
            return list(self._writer.records)
        return self._whole(lambda: _records(self._rows()))

    def unfinished(self) -> list[TrialRecord]:
        """Trials that were asked for and never told, as a kill leaves them, their params completed."""
        writer = self._require_writer()
        lacking: dict[int, tables.Params] = {}
        for record in [record for record in writer.records if record.outcome is None]:
            params = writer.in_order(writer.sampler.complete(record.number, record.params))
            if new := {name: value for name, value in params.items() if name not in record.params}:
                lacking[writer.ids[record.number]] = writer.stored(new)
                writer.records[record.number] = replace(record, params=params)
        if lacking:
            self._write(lambda connection: tables.insert_params(connection, lacking))
        return [record for record in writer.records if record.outcome is None]

    def ask(self, count: int = 1) -> list[TrialRecord]:
        """The next trials, in one transaction; their numbers go on from the last one's."""
        writer = self._require_writer()
        first = len(writer.records)
        drawn = {number: writer.sampler.draw(number) for number in range(first, first + count)}
        asked = [TrialRecord(number, writer.in_order(params)) for number, params in drawn.items()]
        rows = {record.number: writer.stored(record.params) for record in asked}
        if rows:
            self._write(lambda connection: tables.insert_trials(connection, self._id, rows))
            ids = self._database.read(lambda connection: tables.trial_ids(connection, self._id, rows), patient=True)
            writer.ids.update(ids)
            writer.records.extend(asked)
        return asked

    def curves(self) -> dict[int, Curve]:
        """The losses that the pruner saw, of each trial that has ended."""
        found = self._read(lambda connection: tables.read_curves(connection, self._id))
        return {number: Curve(looks, rungs) for number, (looks, rungs) in found.items()}

    def tell(self, records: Sequence[TrialRecord], curves: Mapping[int, Curve] | None = None) -> None:
        """Save how trials ended, in their first stage or a later one, all of them in one transaction or none.

        Optuna's trial has the objective of the first stage, in which all trials compare; those of later stages are
        attributes of it. `curves` are their losses that the pruner saw, by number. UsageError if another program has
        ended one of them, or the study cannot be written.
        """
        from mutransfer.sweep.sampling import STATES

        writer = self._require_writer()
        told = [record for record in records if record.outcome is not None]
        ended = {writer.ids[record.number]: record for record in told if record.stage == 1}
        later: dict[str, dict[int, tuple[None, dict[str, Any]]]] = {}
        for record in told:
            if record.stage > 1:
                result = {"value": record.value, **_result(record)}
                later.setdefault(f"{_STAGE}{record.stage}", {})[writer.ids[record.number]] = (None, result)
        states = {trial_id: STATES[record.outcome].name for trial_id, record in ended.items() if record.outcome}
        seen = {trial_id: (curves or {}).get(record.number, Curve()) for trial_id, record in ended.items()}
        results = {
            trial_id: (seen[trial_id].last if record.outcome == "pruned" else record.value, _result(record))
            for trial_id, record in ended.items()
        }

        def work(connection: Connection) -> None:
            if tables.end_trials(connection, states) != len(states):
                numbers = ", ".join(str(record.number) for record in ended.values())
                raise UsageError(f"{self._place}: another program has ended or removed trial {numbers}")
            if results:
                tables.insert_results(connection, _RESULT, results)
                tables.insert_curves(connection, {i: (curve.looks, curve.rungs) for i, curve in seen.items()})
            for key, further in later.items():
                tables.insert_results(connection, key, further)

        if told:
            self._write(work)
        for record in told:
            if record.stage > 1:
                first = writer.records[record.number]
                longer = (*first.longer[: record.stage - 2], record)
                writer.records[record.number] = replace(first, longer=longer)
                continue
            writer.records[record.number] = record
            if record.outcome is not None:
                looks = seen[writer.ids[record.number]].looks
                writer.sampler.learn(record.number, record.outcome, record.value, looks)

    def beat(self) -> None:
        """Call it several times a minute: it shows other coordinators that this one is alive."""
        if self._lease is not None and self._lease.due:
            self._write(lambda connection: None)

    def close(self) -> None:
        """Close the study; it cannot be used afterwards."""
        if self._lease is not None:
            lease, self._lease = self._lease, None
            with suppress(MutransferError):  # the next coordinator will find that this one is gone
                self._database.write(lease.release, patient=False)
        self._database.close()

    def _open_to_write(self, search: SearchSection, should_stop: Stop) -> None:
        from optuna import logging

        logging.set_verbosity(logging.WARNING)  # the samplers and pruners create studies in memory
        if self._place.storage is not None:  # else the run folder's lock is enough
            lease = Lease(self._place, self._database, self._id)
            lease.claim(should_stop)
            self._lease = lease
        curves = self.curves() if search.pruner is not None else {}
        rows, attributes = self._rows(), self._read_attributes()
        self._writer = self._whole(lambda: _Writer(search, rows, attributes, curves))

    def _read_attributes(self) -> dict[str, Any]:
        found = self._read(lambda connection: tables.read_attributes(connection, self._id))
        return self._whole(lambda: dict(TypeAdapter(StudyAttributes).validate_python(found)))

    def _rows(self) -> list[tables.TrialRow]:
        return self._read(lambda connection: tables.read_trials(connection, self._id))

    def _read(self, work: Callable[[Connection], T]) -> T:
        return self._whole(lambda: self._database.read(work))

    def _whole(self, work: Callable[[], T]) -> T:
        """What `work` makes of the study's content; a UsageError where that has another form."""
        try:
            return work()
        except ValidationError as error:
            raise self._database.damaged(first_problem(error)) from error
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise self._database.damaged(f"{type(error).__name__}: {error}") from error

    def _write(self, work: Callable[[Connection], Any]) -> None:
        lease = self._lease

        def fenced(connection: Connection) -> None:
            if lease is None or lease.renew(connection):
                work(connection)

        self._database.write(fenced)
        if lease is not None:
            lease.renewed()

    def _require_writer(self) -> _Writer:
        if self._writer is None:
            raise ValueError("this study was opened to be read")
        return self._writer


class _Writer:
    """The coordinator's copy of the study, so that it need not ask the database again."""

    def __init__(
        self,
        search: SearchSection,
        rows: Sequence[tables.TrialRow],
        attributes: dict[str, Any],
        curves: Mapping[int, Curve],
    ) -> None:
        from optuna.distributions import distribution_to_json

        from mutransfer.sweep.sampling import Sampler, TPESampler
        from mutransfer.sweep.space import optuna_distributions

        self.records = _records(rows)
        self.attributes = attributes
        self.ids = {row.number: row.trial_id for row in rows}
        self._distributions = optuna_distributions(search)
        self._json = {name: distribution_to_json(one) for name, one in self._distributions.items()}
        tpe = search.sampler == "tpe"
        self.sampler = TPESampler(search, self._distributions, self.records, curves) if tpe else Sampler(search)

    def in_order(self, params: dict[str, Any]) -> dict[str, Any]:
        """Params in the order of the tables' columns."""
        return {name: params[name] for name in self._distributions}

    def stored(self, params: dict[str, Any]) -> tables.Params:
        """Params as Optuna stores them."""
        return {
            name: (float(self._distributions[name].to_internal_repr(value)), self._json[name])
            for name, value in params.items()
        }


def versions() -> dict[str, str]:
    """Versions of the packages that determine the results."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _create(place: Place, attributes: dict[str, Any]) -> None:
    """Make a new study with attributes, and the tables where there are none."""
    import optuna

    storage = optuna_storage(place)
    try:
        study = optuna.create_study(study_name=place.study, storage=storage, direction="minimize")
        for key, value in attributes.items():
            study.set_user_attr(key, value)
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        raise cannot_be("made", place, error.__cause__ or error) from error
    finally:
        storage.engine.dispose()


def _result(record: TrialRecord) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in _RESULT_FIELDS}
    return {name: value for name, value in fields.items() if value is not None}


def _records(rows: Sequence[tables.TrialRow]) -> list[TrialRecord]:
    """The trials; ValueError where a row is not one, or numbers are missing."""
    found = TypeAdapter(list[TrialRecord]).validate_python([_fields(row) for row in rows])
    if [record.number for record in found] != list(range(len(found))):
        raise ValueError("the trials are not numbered from 0 on")
    return found


def _fields(row: tables.TrialRow) -> dict[str, Any]:
    ended = row.state not in ("RUNNING", "WAITING")
    result = row.attributes.get(_RESULT, {})
    longer: list[dict[str, Any]] = []
    while (further := row.attributes.get(f"{_STAGE}{len(longer) + 2}")) is not None:
        known = {name: further[name] for name in ("value", *_RESULT_FIELDS) if name in further}
        longer.append({"number": row.number, "params": row.params, "stage": len(longer) + 2, **known})
    own = {name: result[name] for name in _RESULT_FIELDS if name in result and (name != "outcome" or ended)}
    value = row.value if row.state == "COMPLETE" else None
    return {"number": row.number, "params": row.params, "value": value, **own, "longer": tuple(longer)}
