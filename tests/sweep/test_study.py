"""The study alone: what it writes, how much it writes, and what disks, kills, servers and other coordinators do to it.

Tests with the fixture `storage` run on a SQLite file by URL and, where MUTRANSFER_TEST_POSTGRES holds the URL of an
empty PostgreSQL database, on that.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace

import optuna
import pytest
from optuna.samplers import TPESampler
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError

from mutransfer.config.load import load_config
from mutransfer.errors import ConfigError, Interrupted, UsageError
from mutransfer.sweep import database, lease, tables
from mutransfer.sweep.coordinator import run_sweep
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.place import Place
from mutransfer.sweep.record import TrialRecord
from mutransfer.sweep.space import point
from mutransfer.sweep.status import status
from mutransfer.sweep.study import Study
from tests.conftest import build
from tests.sweep.test_coordinator import Scripted, fake, losses

POSTGRES = "MUTRANSFER_TEST_POSTGRES"
SPACE = {"lr": {"log_uniform": [1e-3, 1e-1]}, "temperature": {"choice": [0.5, 1.0, 2.0]}}
POWERS = {"lr": {"powers": {"base": 2, "start": -9, "stop": -2}}, "temperature": {"choice": [0.5, 1.0, 2.0]}}


@pytest.fixture
def config(gpt):
    return build(gpt, search__space=SPACE, search__trials=8)


@pytest.fixture
def new(config, tmp_path):
    """Makes studies, and closes them."""
    made = []

    def maker(config=config, name="run"):
        folder = SweepFolder(tmp_path / name)
        folder.root.mkdir(exist_ok=True)
        make = Study(folder.study, config.search) if folder.exists else Study.create(folder, config, {"data": "d"})
        made.append(make)
        return make

    yield maker
    for study in made:
        study.close()


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/elsewhere.db"
        return
    if POSTGRES not in os.environ:
        pytest.skip(f"{POSTGRES} holds no URL")
    yield f"${{{POSTGRES}}}"
    engine = create_engine(os.environ[POSTGRES])
    with engine.begin() as connection:
        connection.execute(text("DROP OWNED BY CURRENT_USER CASCADE"))
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS public"))
    engine.dispose()


@pytest.fixture
def quick(monkeypatch):
    """Seconds become tenths."""
    for module, name, value in (
        (lease, "BEAT_SECONDS", 0.05), (lease, "WATCH_SECONDS", 1.0), (lease, "_LOOK_SECONDS", 0.1),
        (database, "_LONGEST_PAUSE", 0.05), (database, "_POLL_SECONDS", 0.01), (database, "PATIENCE", 2.0),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


def ended(record, value=1.5, outcome="completed"):
    return replace(
        record, outcome=outcome, value=value, training_loss=2.5, validation_loss=value, steps=3, seconds=0.25, seed=7
    )


def native(path):
    """The study as Optuna reads it."""
    return optuna.load_study(study_name="mutransfer", storage=f"sqlite:///{path}")


def comparable(trial):
    return (
        trial.number, trial.state, trial.params, trial.distributions, trial.values, trial.user_attrs,
        trial.system_attrs, trial.intermediate_values, trial.duration is None, trial.datetime_complete is None,
    )  # fmt: skip


def sweep(config, runs, executor=None, **arguments):
    return run_sweep(config, runs=runs, executor=lambda: executor or Scripted(fake), pack=1, **arguments)


def test_rows_are_those_that_optuna_writes_itself(new, tmp_path):
    results = [
        ("completed", 1.5),
        ("diverged", None),
        ("out_of_memory", None),
        ("crashed", None),
        ("completed", math.inf),
    ]
    study = new()
    asked = study.ask(6)
    study.tell([ended(record, value, outcome) for record, (outcome, value) in zip(asked, results, strict=False)])
    study.close()
    ours = native(tmp_path / "run" / "study.db")
    theirs = optuna.create_study(storage=f"sqlite:///{tmp_path}/theirs.db", study_name="theirs")
    states = {"completed": "COMPLETE", "diverged": "PRUNED", "out_of_memory": "FAIL", "crashed": "FAIL"}
    for k in range(6):
        trial = theirs.ask(dict(ours.trials[k].distributions))
        theirs._storage._backend.engine.dispose()
        with sqlite3.connect(tmp_path / "theirs.db") as raw:  # the sampler's draw is not what is compared
            for name, value in asked[k].params.items():
                stored = ours.trials[k].distributions[name].to_internal_repr(value)
                raw.execute("UPDATE trial_params SET param_value = ? WHERE trial_id = ? AND param_name = ?",
                            (stored, trial._trial_id, name))  # fmt: skip
        if k < 5:
            trial.set_user_attr("result", ours.trials[k].user_attrs["result"])
            theirs.tell(k, results[k][1], state=optuna.trial.TrialState[states[results[k][0]]])
    again = optuna.load_study(study_name="theirs", storage=f"sqlite:///{tmp_path}/theirs.db")
    assert [comparable(trial) for trial in ours.trials] == [comparable(trial) for trial in again.trials]
    assert ours.best_value == 1.5
    schema = "SELECT group_concat(typeof(number) || typeof(state) || typeof(datetime_start)) FROM trials"
    with sqlite3.connect(tmp_path / "theirs.db") as one, sqlite3.connect(tmp_path / "run" / "study.db") as other:
        assert one.execute(schema).fetchall() == other.execute(schema).fetchall()


def test_times_are_those_of_the_trial(new, tmp_path):
    study = new()
    (record,) = study.ask()
    time.sleep(0.2)
    study.tell([ended(record)])
    study.close()
    (trial,) = native(tmp_path / "run" / "study.db").trials
    assert 0.15 < trial.duration.total_seconds() < 5


def test_asking_and_telling_are_one_transaction_each_whatever_their_number(new):
    study = new()
    study.set_attribute("warm", True)
    seen = []
    engine = study._database._engine
    event.listen(engine, "commit", lambda connection: seen.append("commit"))
    event.listen(engine, "before_cursor_execute", lambda *arguments: seen.append("statement"))
    asked = study.ask(50)
    assert (seen.count("commit"), seen.count("statement")) == (1, 4)
    seen.clear()
    study.tell([ended(record) for record in asked])
    assert seen.count("commit") == 1
    assert seen.count("statement") <= 5


def test_a_disk_flush_is_no_part_of_a_commit(new, tmp_path):
    study = new()
    study.ask()
    with study._database._engine.connect() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 1  # NORMAL
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
    assert (tmp_path / "run" / "study.db-wal").stat().st_size > 0
    study.close()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["study.db"]  # one file, for whoever copies it


@pytest.mark.parametrize("sampler", ["random", "quasi-random", "grid"])
def test_trial_k_has_the_point_of_k_however_it_is_asked_for(gpt, new, sampler):
    config = build(gpt, search__space=POWERS, search__sampler=sampler, search__seed=5, search__trials=9)
    batch = new(config, "batch").ask(9)
    study = new(config, "single")
    singles = [study.ask()[0] for _ in range(4)]
    study.close()
    study = new(config, "single")  # as resumed
    singles += study.ask(2) + study.ask(3)
    assert singles == batch == [TrialRecord(k, point(config.search, k)) for k in range(9)]


@pytest.mark.parametrize("workers", [1, 4])
def test_tpe_is_optunas_own_and_the_same_each_time(gpt, new, capfd, workers):
    config = build(gpt, search__space=SPACE, search__sampler="tpe", search__seed=3)

    def loss(params):
        return abs(math.log(params["lr"] / 0.01))

    def drawn(name):
        study, found = new(config, name), []
        for _ in range(24 // workers):
            asked = study.ask(workers)
            found += [record.params for record in asked]
            study.tell([ended(record, loss(record.params)) for record in asked])
        return found

    found = drawn("one")
    assert found == drawn("two")
    assert "created in memory" not in capfd.readouterr().err  # Optuna's chatter
    oracle = optuna.create_study(sampler=TPESampler(seed=3, constant_liar=True))
    expected = []
    for _ in range(24 // workers):
        for _ in range(workers):
            trial = oracle.ask()
            lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
            expected.append({"lr": lr, "temperature": trial.suggest_categorical("temperature", [0.5, 1.0, 2.0])})
        for k in range(len(expected) - workers, len(expected)):
            oracle.tell(k, loss(expected[k]))
    assert found == expected
    late, early = ([loss(params) for params in part] for part in (expected[14:], expected[:10]))
    assert sum(late) / len(late) < sum(early) / len(early)  # it learns; drawing at random would not


def test_a_servers_message_is_shown_without_the_password(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_OF_TEST", "hunter2")
    place = Place(tmp_path / "study.json", "run-1", "postgresql://me:${SECRET_OF_TEST}@host/db")
    error = database.cannot_be("read", place, Exception("could not connect to postgresql://me:hunter2@host/db"))
    assert str(error).endswith("study cannot be read (could not connect to postgresql://me:***@host/db)")


def test_records_read_by_others_are_those_of_the_writer(new, tmp_path):
    study = new()
    asked = study.ask(3)
    study.tell([ended(asked[2]), replace(ended(asked[0], None, "crashed"), error="boom")])
    study.set_attribute("repeats", {"0": {"8": 1.0}})
    reader = Study(tmp_path / "run" / "study.db", None)  # while the writer is at work
    assert reader.records() == study.records()
    assert reader.attributes == study.attributes
    assert [record.number for record in study.unfinished()] == [1]
    assert [record.outcome for record in reader.records()] == ["crashed", None, "completed"]


def test_a_trial_is_told_once(new, tmp_path):
    study = new()
    asked = study.ask(2)
    native(tmp_path / "run" / "study.db").tell(1, state=optuna.trial.TrialState.FAIL)  # as a dashboard would
    with pytest.raises(UsageError, match="another program has ended or removed trial 0, 1"):
        study.tell([ended(record) for record in asked])
    study.tell([ended(asked[0])])  # nothing of the refused transaction was written
    assert [record.value for record in study.records()] == [1.5, None]


KILLED = """
import json, sys
from dataclasses import replace
from pathlib import Path
from mutransfer.config.load import load_config
from mutransfer.sweep.folder import SweepFolder
from mutransfer.sweep.study import Study
folder, config = SweepFolder(Path(sys.argv[1])), load_config(sys.argv[2])
study = Study(folder.study, config.search) if folder.exists else Study.create(folder, config, {})
waiting = study.unfinished()
print("ready", flush=True)
while True:
    waiting += study.ask(3)
    told = [replace(record, outcome="completed", value=float(record.number)) for record in waiting[:2]]
    study.tell(told)
    waiting = waiting[2:]
    print(json.dumps([record.number for record in told]), flush=True)
"""


def test_sigkill_at_any_moment_loses_nothing_that_was_told(config, gpt, write, tmp_path):
    gpt["search"]["space"] = SPACE
    path, told = write(gpt), set()
    (tmp_path / "run").mkdir()
    for milliseconds in (20, 90, 230):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "run"), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(milliseconds / 1000)
            process.send_signal(signal.SIGKILL)
            lines = process.stdout.read().splitlines(keepends=True)
        told |= {number for line in lines if line.endswith("\n") for number in json.loads(line)}
        copy = tmp_path / f"copy-{milliseconds}"  # what lies behind -wal goes with the copy; -shm is not needed
        copy.mkdir()
        for name in ("study.db", "study.db-wal"):
            if (tmp_path / "run" / name).exists():
                shutil.copy(tmp_path / "run" / name, copy)
        records = Study(copy / "study.db", None).records()
        assert records == Study(tmp_path / "run" / "study.db", None).records()
        assert [record.number for record in records] == list(range(len(records)))
        assert all(record.params == point(config.search, record.number) for record in records)
        done = {record.number for record in records if record.outcome is not None}
        assert told <= done
        assert len(done - told) <= 2 * 3  # told, and killed before it could say so
    assert len(told) > 6


def test_a_locked_study_is_one_clear_message_and_continues(new, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.1)
    study = new()
    asked = study.ask(2)
    other = sqlite3.connect(tmp_path / "run" / "study.db")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UsageError, match=r"study cannot be written \(database is locked\); the same command continues"):
        study.tell([ended(asked[0])])
    other.rollback()
    other.close()
    study.tell([ended(record) for record in asked])
    assert all(record.outcome == "completed" for record in study.records())


def test_a_full_disk_is_one_clear_message_and_continues(config, tmp_path, monkeypatch):
    filled = []
    insert = tables.insert_trials

    def filling(connection, study, trials):
        if 3 in trials and not filled:
            filled.append(True)
            pages = connection.execute(text("PRAGMA page_count")).scalar()
            connection.execute(text(f"PRAGMA max_page_count = {pages}"))
            trials = {**trials, **{k: {"x": (0.0, "long" * 3000)} for k in range(100, 130)}}
        insert(connection, study, trials)

    monkeypatch.setattr(tables, "insert_trials", filling)
    with pytest.raises(UsageError, match=r"study cannot be written \(database or disk is full\); the same command"):
        sweep(config, tmp_path / "runs")
    done = [record for record in status(SweepFolder(tmp_path / "runs" / "tiny-gpt")).records if record.outcome]
    assert 0 < len(done) < 8
    assert losses(sweep(config, tmp_path / "runs")) == losses(sweep(config, tmp_path / "whole"))


def test_a_folder_that_cannot_be_written_is_read_without_making_files(new, tmp_path, monkeypatch):
    study = new()
    study.tell([ended(record) for record in study.ask(2)])
    study.close()
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)
    file = tmp_path / "run" / "study.db"
    assert database._reading_url(file).query["immutable"] == "1"
    assert len(Study(file, None).records()) == 2
    with pytest.raises(UsageError, match="cannot be written: its file is read-only"):
        new()


@pytest.mark.parametrize(
    "query", ["DELETE FROM studies", "DROP TABLE trial_params", "UPDATE trial_params SET distribution_json='{'"]
)
def test_content_that_is_no_study_of_ours_is_refused(config, new, tmp_path, query):
    study = new()
    study.ask(2)
    study.close()
    with sqlite3.connect(tmp_path / "run" / "study.db") as raw:
        raw.execute(query)
    for search in (None, config.search):
        with pytest.raises(UsageError, match="study file is damaged"):
            Study(tmp_path / "run" / "study.db", search).records()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:hunter2@host/db", "postgresql://me:hun/t@er2@host/db", "mysql://h/db?password=hunter2",
        "postgresql://me:${PASSWORD}hunter2@host/db", "hunter2",
    ],
)  # fmt: skip
def test_a_password_in_the_config_is_refused_and_not_repeated(gpt, write, url):
    gpt["search"]["storage"] = url
    with pytest.raises(
        ConfigError, match=r"search\.storage: (has a password or token in it|must be a storage URL)"
    ) as caught:
        load_config(write(gpt))
    del gpt["search"]["storage"]
    with pytest.raises(ConfigError) as overridden:
        load_config(write(gpt), [f"search.storage={url}"])
    assert "hun" not in str(caught.value)
    assert url == "hunter2" or "er2" not in str(overridden.value).replace("db?password=hunter2", "")


def test_environment_variables_are_filled_in_and_never_shown(gpt, tmp_path, monkeypatch):
    config = build(gpt, search__storage="postgresql+psycopg://me:${SECRET_OF_TEST}@127.0.0.1:1/db")
    with pytest.raises(UsageError, match="environment variable SECRET_OF_TEST is not set"):
        sweep(config, tmp_path)
    pytest.importorskip("psycopg")
    monkeypatch.setenv("SECRET_OF_TEST", "hunter2 {@/")
    with pytest.raises(UsageError, match=r"study cannot be opened \(.*connection.*") as caught:
        sweep(config, tmp_path)
    assert "hunter2" not in str(caught.value)
    assert not any("hunter2" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuch://host/db", "is not a storage URL"),
        ("sqlite://", "keeps nothing; give it a path"),
        ("sqlite:////nosuch/folder/study.db", "unable to open database file"),
    ],
)
def test_a_storage_that_cannot_be_is_refused(gpt, tmp_path, url, message):
    with pytest.raises(UsageError, match=message):
        sweep(build(gpt, search__storage=url), tmp_path)


def test_a_study_elsewhere_is_swept_and_continued(gpt, tmp_path, storage):
    config = build(gpt, search__storage=storage)
    asked = iter([False] * 5 + [True] * 99)
    with pytest.raises(Interrupted):
        sweep(config, tmp_path / "runs", should_stop=lambda: next(asked))
    folder = SweepFolder(tmp_path / "runs" / "tiny-gpt")
    assert status(folder).state == "stopped"
    found = sweep(config, tmp_path / "runs")
    whole = sweep(build(gpt), tmp_path / "whole")
    assert losses(found) == losses(whole)
    assert status(folder).state == "finished"
    assert folder.table.read_text() == whole.folder.table.read_text()
    again = sweep(config, tmp_path / "again")  # another run of that name in the same database is another study
    assert losses(again) == losses(whole)
    names = {json.loads(one.study.read_text())["study"] for one in (found.folder, again.folder)}
    assert len(names) == 2
    assert not (folder.root / "study.db").exists()


def test_a_coordinator_elsewhere_is_refused_while_one_is_at_work(gpt, tmp_path, storage):
    config = build(gpt, search__storage=storage)
    second = (
        "import sys; from pathlib import Path; from mutransfer.config.load import load_config;"
        "from mutransfer.sweep.study import Study; from mutransfer.sweep.folder import SweepFolder;"
        "folder = SweepFolder(Path(sys.argv[1])); Study(folder.study, load_config(folder.config).search)"
    )
    answers = []

    class Waiting(Scripted):
        """Its first job lasts until another coordinator has tried."""

        def submit(self, job):
            if answers:
                return super().submit(job)
            shutil.copytree(tmp_path / "runs", tmp_path / "copy", ignore=shutil.ignore_patterns(".lock*"))
            command = [sys.executable, "-c", second, str(tmp_path / "copy" / "tiny-gpt")]
            future = Future()

            def wait():
                answers.append(subprocess.run(command, check=False, capture_output=True, text=True).stderr)
                future.set_result([fake(config, 0) for config in job.arguments["configs"]])

            answers.append("")
            threading.Thread(target=wait).start()
            return future

    found = sweep(config, tmp_path / "runs", Waiting(fake, capacity=1))
    assert "is being swept by process" in answers[1]
    assert losses(found) == losses(sweep(build(gpt), tmp_path / "whole"))


def test_a_dead_coordinator_is_succeeded_and_a_late_one_finds_out(config, gpt, tmp_path, storage, quick):
    config = build(gpt, search__storage=storage, search__space=SPACE)
    folder = SweepFolder(tmp_path / "one")
    folder.root.mkdir()
    first = Study.create(folder, config, {})
    asked = first.ask(3)
    first.tell([ended(asked[0])])
    shutil.copytree(folder.root, tmp_path / "two")
    began = time.monotonic()
    second = Study(SweepFolder(tmp_path / "two").study, config.search)  # the first says nothing for WATCH_SECONDS
    assert time.monotonic() - began > 0.9
    with pytest.raises(UsageError, match=r"is being swept by process \d+ on .*two; a study has one coordinator"):
        first.tell([ended(asked[1])])
    with pytest.raises(UsageError, match="one coordinator at a time"):
        first.ask()
    assert [record.outcome for record in second.records()] == ["completed", None, None]
    second.tell([ended(record) for record in second.unfinished()])
    first.close()
    began = time.monotonic()
    third = Study(SweepFolder(tmp_path / "two").study, config.search)  # a successor in the same folder does not wait
    assert time.monotonic() - began < 0.9
    assert [record.outcome for record in third.records()] == ["completed"] * 3
    assert [record.number for record in third.ask()] == [3]
    third.close()
    second.close()
    Study(folder.study, config.search).close()  # nobody is at work: no wait


def test_a_commit_whose_answer_was_lost_is_not_repeated(config, gpt, tmp_path, storage, quick, monkeypatch):
    """A connection that dies in the moment of a commit leaves it open whether the commit was done."""
    config = build(gpt, search__storage=storage, search__space=SPACE)
    folder = SweepFolder(tmp_path / "run")
    folder.root.mkdir()
    study = Study.create(folder, config, {})
    study.ask()
    monkeypatch.setattr(study._database, "_is_away", lambda error: "lost" in str(error))
    lost = []

    def lose(connection):
        if len(lost) < 2:
            lost.append(connection)
            connection.connection.dbapi_connection.commit()
            raise OperationalError("COMMIT", None, Exception("the answer was lost"))

    event.listen(study._database._engine, "commit", lose)
    asked = study.ask(2)
    study.tell([ended(record) for record in asked])
    assert len(lost) == 2
    study.close()
    records = Study(folder.study, None).records()
    assert [(record.number, record.value) for record in records] == [(0, None), (1, 1.5), (2, 1.5)]
    assert [record.params for record in records] == [point(config.search, k) for k in range(3)]


def away(study, monkeypatch, seconds):
    """The server cannot be reached for so long; how often it was tried."""
    back, tries, engine = time.monotonic() + seconds, [], study._database._engine

    def refusing(call):
        def refuse():
            tries.append(time.monotonic())
            if time.monotonic() < back:
                raise OperationalError("BEGIN", None, Exception("connection refused"))
            return call()

        return refuse

    monkeypatch.setattr(engine, "begin", refusing(engine.begin))
    monkeypatch.setattr(engine, "connect", refusing(engine.connect))
    monkeypatch.setattr(study._database, "_is_away", lambda error: "refused" in str(error))
    return tries


def test_a_server_that_comes_back_is_waited_for(new, monkeypatch, quick):
    study = new()
    (record,) = study.ask()
    tries = away(study, monkeypatch, 0.8)
    study.tell([ended(record)])
    assert len(tries) > 2
    assert study.records()[0].value == 1.5
    away(study, monkeypatch, 0.3)
    assert [record.number for record in study.ask(2)] == [1, 2]


def test_a_server_that_stays_away_is_one_clear_message(new, monkeypatch, quick):
    study = new()
    (record,) = study.ask()
    away(study, monkeypatch, 99)
    monkeypatch.setattr(database, "PATIENCE", 0.2)
    with pytest.raises(UsageError, match=r"the database was away for 0 s \(connection refused\); the same command"):
        study.tell([ended(record)])
    monkeypatch.setattr(study._database, "_should_stop", lambda: True)
    monkeypatch.setattr(database, "PATIENCE", 99)
    with pytest.raises(Interrupted, match="stopped while the database was away"):
        study.tell([ended(record)])


def test_connections_cut_by_the_server_are_made_again(gpt, tmp_path, quick):
    if POSTGRES not in os.environ:
        pytest.skip(f"{POSTGRES} holds no URL")
    engine = create_engine(os.environ[POSTGRES])
    cut = []

    def cutting(config, attempt):
        with engine.begin() as connection:
            others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = user"
            mine = f"SELECT count(pg_terminate_backend(pid)) {others}"
            cut.append(connection.execute(text(mine)).scalar())
        return fake(config, attempt)

    config = build(gpt, search__storage=f"${{{POSTGRES}}}", search__trials=6)
    found = sweep(config, tmp_path / "runs", Scripted(cutting))
    engine.dispose()
    assert sum(cut) > 0
    assert losses(found) == losses(sweep(build(gpt, search__trials=6), tmp_path / "whole"))


def give_revision(path, revision):
    """Make the tables those of another revision; the file's bytes."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [revision])
        connection.execute("ALTER TABLE trial_values RENAME COLUMN value TO amount")
        connection.execute("ALTER TABLE trial_system_attributes RENAME TO trial_notes")
    connection.close()
    return path.read_bytes()


@pytest.mark.parametrize("revision", ["v9.0.0", "v3.0.0.d"])
def test_tables_of_another_revision_are_refused_and_left_as_they_are(config, new, tmp_path, revision):
    study = new()
    study.ask(2)
    study.close()
    path = tmp_path / "run" / "study.db"
    before = give_revision(path, revision)
    for search in (None, config.search):
        with pytest.raises(UsageError, match=rf"revision {revision} of Optuna's tables .* only v3\.2\.0\.a;"):
            Study(path, search)
    assert path.read_bytes() == before


@pytest.mark.parametrize("revision", ["v9.0.0", "v3.0.0.d"])
def test_no_study_is_made_beside_others_in_tables_of_another_revision(gpt, tmp_path, revision):
    """Optuna alone would add the tables that it misses, and then refuse."""
    path = tmp_path / "shared.db"
    optuna.create_study(storage=f"sqlite:///{path}", study_name="theirs")
    before = give_revision(path, revision)
    with pytest.raises(UsageError, match=f"revision {revision} of Optuna's tables cannot be used"):
        sweep(build(gpt, search__storage=f"sqlite:///{path}"), tmp_path / "runs")
    assert path.read_bytes() == before
    assert not (tmp_path / "runs" / "tiny-gpt" / "study.json").exists()


def test_an_optuna_with_another_schema_continues_studies_and_makes_none(config, gpt, new, tmp_path, monkeypatch):
    (record,) = new().ask()
    monkeypatch.setattr(optuna.storages.RDBStorage, "get_head_version", lambda self: "v9.0.0")
    study = new()
    study.tell([ended(record)])
    assert [record.number for record in study.ask()] == [1]
    for storage in (None, f"sqlite:///{tmp_path}/shared.db"):
        with pytest.raises(UsageError, match=r"revision v9\.0\.0 of Optuna's tables cannot be used"):
            sweep(build(gpt, search__storage=storage), tmp_path / "runs")
    assert not list((tmp_path / "runs").rglob("study.*"))
    assert not (tmp_path / "shared.db").exists()


def test_the_revision_that_is_accepted_is_the_one_that_optuna_makes(new, tmp_path):
    """Fails when Optuna changes its schema: compare the tables, then add the revision."""
    new().close()
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'run' / 'study.db'}")
    assert (storage.get_head_version(),) == (storage.get_current_version(),) == tables.REVISIONS
