"""The store's tables, their version, and how an older store becomes a newer one.

A record is its JSON (`body`); the other columns repeat what is searched for, ordered by or unique.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)

from modelserve.deploy.database import Database
from modelserve.errors import StoreError

TABLES = MetaData()

VERSION = Table("modelserve_schema", TABLES, Column("version", Integer, nullable=False))

ENTITY = Table(
    "modelserve_entity",
    TABLES,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("project", "type", "kind", "name", "id", "function", "state")),
    Column("created", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    UniqueConstraint("project", "type", "id"),
    Index("modelserve_entity_newest", "type", "project", "name", "created", "sequence"),
)
"""created: UTC in one width, so that it sorts as text; sequence: the order of creation where that is equal."""

_ONE_TASK = text(
    "CREATE UNIQUE INDEX modelserve_entity_task ON modelserve_entity (project, function, kind) WHERE type = 'task'"
)
"""Of a function and an action. As text: for an Index with `postgresql_where` SQLAlchemy imports all that it knows of
PostgreSQL, which each command would wait for that uses SQLite."""

SECRET = Table(
    "modelserve_secret",
    TABLES,
    Column("project", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("token", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("salt", Text, nullable=False),
)
"""As secrets.Sealed has it."""

Migration = Callable[[Connection], None]

MIGRATIONS: tuple[Migration, ...] = ()
"""MIGRATIONS[n] makes version n + 2 of version n + 1. What is here is never changed, as stores of every version are
out there: it says its own SQL and does not use the tables above, which are the newest."""

_LOCK = 0x6D6F64656C736572
"""PostgreSQL's advisory lock of who makes or migrates tables: "modelser" in ASCII."""


def prepare(database: Database, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Make the tables, or bring them to this version; any number of processes may do so at once. Raises StoreError."""
    newest = 1 + len(migrations)
    with database.transaction(write=False) as connection:
        found = _version(connection)
    if found < newest:
        with database.transaction(write=True) as connection:
            if database.is_postgres:
                connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            found = _version(connection)  # again: another process may have been faster
            if found == 0:
                TABLES.create_all(connection)
                connection.execute(_ONE_TASK)
                connection.execute(insert(VERSION).values(version=newest))
            elif found < newest:
                for migrate in migrations[found - 1 :]:
                    migrate(connection)
                connection.execute(update(VERSION).values(version=newest))
    if found > newest:
        raise StoreError(
            f"the store {database.name} has version {found} of its tables and this modelserve knows {newest} at most; "
            "upgrade modelserve"
        )


def _version(connection: Connection) -> int:
    """0 where there are no tables yet."""
    if not inspect(connection).has_table(VERSION.name):
        return 0
    return int(connection.execute(select(VERSION.c.version)).scalar_one())
