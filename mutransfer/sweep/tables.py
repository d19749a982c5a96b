"""Optuna's own tables, written and read for many trials at once.

Optuna's API needs about a dozen statements per trial and a transaction for most of them; these functions need about
five per batch, whatever the number of trials. They write what Optuna itself would write (a test compares the two), so
dashboards and `optuna.load_study` read the study.

A study is used only if its tables have a revision that these functions were written for. There is no slower path
through the API. The API cannot add results of a later stage to a trial that has ended. It cannot end many trials in
one transaction, or compare and set the attribute that says who coordinates a shared study.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, DateTime, Enum, Float, Integer, Text, column, delete, insert, select, table, update

# The enums are types of their own in PostgreSQL, under these names.
_STATE = Enum("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING", name="trialstate")
_KIND = Enum("FINITE", "INF_POS", "INF_NEG", name="trialvaluetype")
_LOOK_KIND = Enum("FINITE", "INF_POS", "INF_NEG", "NAN", name="trialintermediatevaluetype")
_STUDIES = table("studies", column("study_id", Integer), column("study_name", Text))


def _attributes(name: str, owner: str) -> sqlalchemy.TableClause:
    return table(name, column(owner, Integer), column("key", Text), column("value_json", Text))


_STUDY_ATTRIBUTES = _attributes("study_user_attributes", "study_id")
_ATTRIBUTES = _attributes("trial_user_attributes", "trial_id")
_SYSTEM_ATTRIBUTES = _attributes("trial_system_attributes", "trial_id")
_TRIALS = table(
    "trials", column("trial_id", Integer), column("number", Integer), column("study_id", Integer),
    column("state", _STATE), column("datetime_start", DateTime), column("datetime_complete", DateTime),
)  # fmt: skip
_PARAMS = table(
    "trial_params", column("param_id", Integer), column("trial_id", Integer), column("param_name", Text),
    column("param_value", Float(53)), column("distribution_json", Text),
)  # fmt: skip
_VALUES = table(
    "trial_values", column("trial_id", Integer), column("objective", Integer), column("value", Float(53)),
    column("value_type", _KIND),
)  # fmt: skip
_LOOKS = table(
    "trial_intermediate_values", column("trial_id", Integer), column("step", Integer),
    column("intermediate_value", Float(53)), column("intermediate_value_type", _LOOK_KIND),
)  # fmt: skip
REVISIONS = ("v3.2.0.a",)
"""Alembic revisions of Optuna's schema that these functions read and write. Optuna 4.5 to 5.0 make this one."""
_REVISION = table("alembic_version", column("version_num", Text))
_SPECIAL = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
# Databases limit how many values one statement may have.
_CHUNK = 500


@dataclass
class TrialRow:
    """One trial in the tables."""

    trial_id: int
    number: int
    state: str
    params: dict[str, Any] = field(default_factory=dict)
    value: float | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


Params = Mapping[str, tuple[float, str]]
"""`{name: (value as Optuna stores it, distribution as JSON)}`."""


def read_revision(connection: Connection) -> str | None:
    """The revision of Optuna's tables; None where there are no tables yet."""
    if not sqlalchemy.inspect(connection).has_table(_REVISION.name):
        return None
    return ", ".join(connection.execute(select(_REVISION.c.version_num)).scalars())


def study_id(connection: Connection, name: str) -> int | None:
    """Id of the study of that name, None when there is none."""
    found = connection.execute(select(_STUDIES.c.study_id).where(_STUDIES.c.study_name == name)).scalar()
    return None if found is None else int(found)


def read_attributes(connection: Connection, study: int) -> dict[str, Any]:
    """The study's user attributes."""
    query = select(_STUDY_ATTRIBUTES.c.key, _STUDY_ATTRIBUTES.c.value_json).where(_STUDY_ATTRIBUTES.c.study_id == study)
    return {key: json.loads(value) for key, value in connection.execute(query)}


def write_attribute(connection: Connection, study: int, key: str, value: Any) -> None:
    """Set one user attribute of the study."""
    text = json.dumps(value)
    if not swap_attribute(connection, study, key, None, text):
        connection.execute(insert(_STUDY_ATTRIBUTES).values(study_id=study, key=key, value_json=text))


def swap_attribute(connection: Connection, study: int, key: str, old: str | None, new: str) -> bool:
    """Set the JSON of an existing attribute (if it equals `old`, unless that is None); whether it was set."""
    columns = _STUDY_ATTRIBUTES.c
    change = update(_STUDY_ATTRIBUTES).where(columns.study_id == study, columns.key == key).values(value_json=new)
    if old is not None:
        change = change.where(columns.value_json == old)
    return connection.execute(change).rowcount == 1


def read_attribute_text(connection: Connection, study: int, key: str) -> str | None:
    """The JSON of one user attribute of the study."""
    columns = _STUDY_ATTRIBUTES.c
    found = connection.execute(select(columns.value_json).where(columns.study_id == study, columns.key == key)).scalar()
    return None if found is None else str(found)


def insert_trials(connection: Connection, study: int, trials: Mapping[int, Params]) -> None:
    """Add running trials, by number."""
    now = datetime.now(UTC).replace(tzinfo=None)  # as Optuna stores it
    rows = [{"number": k, "study_id": study, "state": "RUNNING", "datetime_start": now} for k in trials]
    connection.execute(insert(_TRIALS), rows)
    ids = trial_ids(connection, study, trials)
    insert_params(connection, {ids[number]: params for number, params in trials.items()})


def insert_params(connection: Connection, trials: Mapping[int, Params]) -> None:
    """Add params to trials, by trial id."""
    rows = [
        {"trial_id": trial_id, "param_name": name, "param_value": value, "distribution_json": distribution}
        for trial_id, params in trials.items()
        for name, (value, distribution) in params.items()
    ]
    _add(connection, _PARAMS, rows)


def trial_ids(connection: Connection, study: int, numbers: Mapping[int, Any]) -> dict[int, int]:
    """Trial ids of the newest trials, by number."""
    trials = _TRIALS.c
    query = select(trials.number, trials.trial_id).where(trials.study_id == study)
    query = query.order_by(trials.trial_id.desc()).limit(len(numbers))
    return {number: trial_id for number, trial_id in connection.execute(query) if number in numbers}


def end_trials(connection: Connection, states: Mapping[int, str]) -> int:
    """Set the states of running trials, by trial id; how many of them were running."""
    now = datetime.now(UTC).replace(tzinfo=None)
    changed = 0
    for state in set(states.values()):
        for ids in _chunks([trial_id for trial_id, ended in states.items() if ended == state]):
            change = update(_TRIALS).where(_TRIALS.c.trial_id.in_(ids), _TRIALS.c.state == "RUNNING")
            changed += connection.execute(change.values(state=state, datetime_complete=now)).rowcount
    return changed


def insert_results(
    connection: Connection, key: str, results: Mapping[int, tuple[float | None, Mapping[str, Any]]]
) -> None:
    """Add objective (if there is one) and user attribute `key` to trials, by trial id."""
    values = {trial_id: _stored(value) for trial_id, (value, _) in results.items() if value is not None}
    rows = [{"trial_id": i, "objective": 0, "value": one, "value_type": kind} for i, (one, kind) in values.items()]
    _add(connection, _VALUES, rows)
    for ids in _chunks(list(results)):  # an interrupted tell of Optuna's may have left one
        connection.execute(delete(_ATTRIBUTES).where(_ATTRIBUTES.c.trial_id.in_(ids), _ATTRIBUTES.c.key == key))
    connection.execute(
        insert(_ATTRIBUTES),
        [{"trial_id": i, "key": key, "value_json": json.dumps(data)} for i, (_, data) in results.items()],
    )


def insert_curves(connection: Connection, curves: Mapping[int, tuple[Mapping[int, float], Mapping[str, Any]]]) -> None:
    """Add a pruner's data to trials, by trial id: losses by step, and its own values."""
    rows = []
    for trial_id, (looks, _) in curves.items():
        for step, value in looks.items():
            names = ("intermediate_value", "intermediate_value_type")
            rows.append({"trial_id": trial_id, "step": step, **dict(zip(names, _stored(value), strict=True))})
    _add(connection, _LOOKS, rows)
    kept = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        for trial_id, (_, rungs) in curves.items()
        for key, value in rungs.items()
    ]
    _add(connection, _SYSTEM_ATTRIBUTES, kept)


def read_curves(connection: Connection, study: int) -> dict[int, tuple[dict[int, float], dict[str, Any]]]:
    """The data that `insert_curves` added, by trial number."""
    found: dict[int, tuple[dict[int, float], dict[str, Any]]] = {}
    for number, step, value, kind in _rows(connection, study, _LOOKS, order=_LOOKS.c.step):
        found.setdefault(number, ({}, {}))[0][step] = _SPECIAL.get(kind, value)
    for number, key, text in _rows(connection, study, _SYSTEM_ATTRIBUTES):
        found.setdefault(number, ({}, {}))[1][key] = json.loads(text)
    return found


def read_trials(connection: Connection, study: int) -> list[TrialRow]:
    """Every trial of the study, by number."""
    trials = _TRIALS.c
    # The trials first: a trial that has ended by now has its results in the tables that are read later.
    query = select(trials.trial_id, trials.number, trials.state).where(trials.study_id == study)
    found = {row[1]: TrialRow(*row) for row in connection.execute(query.order_by(trials.number)).all()}

    def of(child: sqlalchemy.TableClause, order: Any = None) -> Iterator[Any]:
        for number, *row in _rows(connection, study, child, order=order):
            if number in found:
                yield found[number], *row

    distributions: dict[str, Any] = {}
    for trial, _, name, value, text in of(_PARAMS, _PARAMS.c.param_id):
        if text not in distributions:
            distributions[text] = json.loads(text)["attributes"].get("choices")
        choices = distributions[text]
        trial.params[name] = value if choices is None else choices[int(value)]
    for trial, _, value, kind in of(_VALUES):
        trial.value = _SPECIAL.get(kind, value)
    for trial, key, text in of(_ATTRIBUTES):
        trial.attributes[key] = json.loads(text)
    return list(found.values())


def _rows(connection: Connection, study: int, child: sqlalchemy.TableClause, *, order: Any = None) -> Sequence[Any]:
    """(trial's number, columns of `child` but its trial id) of every row."""
    columns = [one for one in child.c if one.name != "trial_id"]
    query = select(_TRIALS.c.number, *columns).join_from(child, _TRIALS, child.c.trial_id == _TRIALS.c.trial_id)
    return connection.execute(query.where(_TRIALS.c.study_id == study).order_by(order)).all()


def _add(connection: Connection, into: sqlalchemy.TableClause, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        connection.execute(insert(into), rows)


def _stored(value: float) -> tuple[float | None, str]:
    """A number as Optuna stores it: value and kind."""
    if math.isfinite(value):
        return value, "FINITE"
    return None, "NAN" if math.isnan(value) else "INF_POS" if value > 0 else "INF_NEG"


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]
