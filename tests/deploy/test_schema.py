"""The tables' version: made once by many, migrated whole or not at all, refused when newer."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, text

from modelserve.deploy import schema
from modelserve.deploy.database import Database
from modelserve.deploy.record import Record
from modelserve.deploy.store import Store
from modelserve.errors import StoreError
from tests.deploy.programs import BEGIN, run_at_once

NEWEST = 1 + len(schema.MIGRATIONS)


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    with contextlib.closing(Database(store_url)) as database:
        yield database


@pytest.fixture
def older(database: Database, store_url: str) -> Database:
    """A store of the version before a made-up one, with a record in it."""
    with contextlib.closing(Store(store_url)) as store:
        store.create(Record(project="demo", type="project", kind="project", name="demo", id="demo"))
    return database


def execute(database: Database, statement: str) -> list[Any]:
    with database.transaction(write=False) as connection:
        return list(connection.execute(text(statement)))


def add_a_column(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE modelserve_entity ADD COLUMN colour TEXT"))
    connection.execute(text("UPDATE modelserve_entity SET colour = 'red'"))


def fail_half_way(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE modelserve_entity ADD COLUMN size TEXT"))
    connection.execute(text("UPDATE modelserve_entity SET colour = 'blue'"))
    connection.execute(text("UPDATE modelserve_nothing SET colour = 'blue'"))


def columns(database: Database) -> set[str]:
    with database.transaction(write=False) as connection:
        return {column["name"] for column in inspect(connection).get_columns("modelserve_entity")}


def version(database: Database) -> list[Any]:
    return execute(database, "SELECT version FROM modelserve_schema")


def test_a_new_store_is_of_the_newest_version(database: Database) -> None:
    schema.prepare(database)
    assert version(database) == [(NEWEST,)]


def test_a_function_has_one_task_for_an_action(database: Database) -> None:
    schema.prepare(database)
    (index,) = execute(
        database,
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'modelserve_entity_task'"
        if database.is_postgres
        else "SELECT sql FROM sqlite_master WHERE name = 'modelserve_entity_task'",
    )
    assert index[0].startswith("CREATE UNIQUE INDEX modelserve_entity_task ON ")
    assert "WHERE (type = 'task'" in index[0].replace("WHERE type", "WHERE (type")


def test_sqlite_needs_nothing_of_postgresql(tmp_path: Path) -> None:
    program = """
import sys
from modelserve.deploy.store import Store
Store(sys.argv[1]).list("run")
print([name for name in sys.modules if "postgresql" in name or "psycopg" in name])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, f"sqlite:///{tmp_path}/s.db"], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_new_store_needs_no_migration(database: Database) -> None:
    schema.prepare(database, [*schema.MIGRATIONS, fail_half_way])
    assert version(database) == [(NEWEST + 1,)]


def test_an_older_store_is_migrated_once(older: Database, store_url: str) -> None:
    migrations = [*schema.MIGRATIONS, add_a_column]
    schema.prepare(older, migrations)
    schema.prepare(older, migrations)  # a second time there would be such a column already
    assert version(older) == [(NEWEST + 1,)]
    assert execute(older, "SELECT id, colour FROM modelserve_entity") == [("demo", "red")]


def test_migrations_follow_one_another(older: Database) -> None:
    def paint(connection: Connection) -> None:
        connection.execute(text("UPDATE modelserve_entity SET colour = colour || 'dish'"))

    schema.prepare(older, [*schema.MIGRATIONS, add_a_column, paint])
    assert version(older) == [(NEWEST + 2,)]
    assert execute(older, "SELECT colour FROM modelserve_entity") == [("reddish",)]


def test_a_migration_that_fails_leaves_the_store_as_it_was(older: Database, store_url: str) -> None:
    before = columns(older)
    with pytest.raises(StoreError, match="modelserve_nothing"):
        schema.prepare(older, [*schema.MIGRATIONS, add_a_column, fail_half_way])
    assert version(older) == [(NEWEST,)]
    assert columns(older) == before
    with contextlib.closing(Store(store_url)) as store:
        assert len(store.list("project")) == 1


def test_a_newer_store_is_refused(older: Database, store_url: str) -> None:
    schema.prepare(older, [*schema.MIGRATIONS, add_a_column])
    with pytest.raises(StoreError) as caught:
        Store(store_url)
    assert caught.value.message == (
        f"the store {older.name} has version {NEWEST + 1} of its tables and this modelserve knows {NEWEST} at most; "
        "upgrade modelserve"
    )


def test_many_migrate_at_once(older: Database, store_url: str) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(4)

    def migrate() -> None:
        try:
            with contextlib.closing(Database(store_url)) as own:
                barrier.wait(30)
                schema.prepare(own, [*schema.MIGRATIONS, add_a_column])
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert version(older) == [(NEWEST + 1,)]


OPEN = f"""
import sys
from modelserve.deploy.record import Record, new_id
from modelserve.deploy.store import Store
{BEGIN}
store = Store(sys.argv[1])
store.create(Record(project="demo", type="run", kind="k", name="x", id=new_id()))
store.close()
"""


@pytest.mark.slow
def test_eight_processes_open_a_new_store(database: Database, store_url: str) -> None:
    run_at_once(OPEN, [(store_url,)] * 8)
    assert version(database) == [(NEWEST,)]
    assert execute(database, "SELECT count(*), count(DISTINCT sequence) FROM modelserve_entity") == [(8, 8)]
