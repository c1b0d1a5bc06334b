"""The database that a URL names: a SQLite file or PostgreSQL, its transactions, and its errors in words.

Knows no table and no record. Any thread may use it; a forked process gets connections of its own.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from modelserve.errors import StoreError

BUSY_S = 30
"""How long a write waits for another process's."""
WAL_BYTES = 4 * 1024 * 1024
"""Above it the next write moves SQLite's log into the database first; the size at which SQLite itself would."""
_POLL_S = 0.01

_SQLITE = {
    sqlite3.SQLITE_FULL: "cannot be written because the disk is full; free some space",
    sqlite3.SQLITE_READONLY: "is read only; let this user write the file and its directory",
    sqlite3.SQLITE_PERM: "may not be opened; let this user read and write the file and its directory",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; let this user read and write the file and its directory",
    sqlite3.SQLITE_BUSY: f"was locked by another process for {BUSY_S} s; end that process, or try again",
    sqlite3.SQLITE_LOCKED: f"was locked by another process for {BUSY_S} s; end that process, or try again",
    sqlite3.SQLITE_PROTOCOL: f"was locked by another process for {BUSY_S} s; end that process, or try again",
    sqlite3.SQLITE_NOTADB: "is no SQLite database; move the file away, or set MODELSERVE_STORE_URL to another",
    sqlite3.SQLITE_CORRUPT: "is damaged; put a copy back, or save what `sqlite3 FILE .recover` can read",
    sqlite3.SQLITE_IOERR: "cannot be read or written; look at its disk, quota and file size limit",
}
"""By SQLite's primary result code."""

_POSTGRES = {
    "53100": "cannot be written because the server's disk is full; free some space there",
    "25006": "is read only; set MODELSERVE_STORE_URL to the primary server",
    "42501": "refuses this user; GRANT it the tables and, where they are still to be made, CREATE",
    "55P03": f"was locked by another process for {BUSY_S} s; end that process, or try again",
    "57P01": "is shutting down; try again",
    "57P03": "is starting; try again",
}
"""By SQLSTATE."""


class Database:
    """An engine. `name` is its URL without the password. Raises StoreError for a URL that names no database."""

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self.is_postgres = parsed.drivername.startswith("postgresql")
        self.name = _name(parsed)
        self._password = parsed.password or ""
        self._pid = os.getpid()
        self._engine = _postgres_engine(parsed) if self.is_postgres else _sqlite_engine(parsed)
        self._file = None if self.is_postgres else os.stat(self.name)

    @contextlib.contextmanager
    def transaction(self, *, write: bool) -> Iterator[Connection]:
        """One transaction, which is undone when the block raises. Raises StoreError for whatever the database says."""
        if os.getpid() != self._pid:  # forked: the parent's connections are not ours, neither to use nor to close
            self._engine.dispose(close=False)
            self._pid = os.getpid()
        try:
            if self._file is not None:
                self._check_file(self._file)
            if self._file is not None and write:
                self._checkpoint()
            with self._engine.connect().execution_options(modelserve_write=write) as connection, connection.begin():
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(f"the store {self.name} {self._said(error)}") from error

    def close(self) -> None:
        self._engine.dispose()

    def _check_file(self, opened: os.stat_result) -> None:
        """Raises StoreError when the name is another file's by now: what is written to ours, nobody would find."""
        try:
            if os.path.samestat(os.stat(self.name), opened):
                return
        except OSError:
            pass
        raise StoreError(f"the store {self.name} was removed or replaced while it was open; start this process again")

    def _checkpoint(self) -> None:
        """Move SQLite's log into the database when it has grown.

        SQLite does that by itself after a commit, while others go on writing; before 3.51.3 a commit that starts the
        log anew just then can damage the database (the WAL-reset bug). TRUNCATE keeps writers out, and so does what
        SQLite does when the last connection closes.
        """
        try:
            if os.path.getsize(f"{self.name}-wal") < WAL_BYTES:
                return
        except FileNotFoundError:
            return
        connection = self._engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise DBAPIError("PRAGMA wal_checkpoint", None, error) from error
        finally:
            connection.close()

    def _said(self, error: SQLAlchemyError) -> str:
        """What happened and what to do, in words that follow the database's name."""
        if isinstance(error, PoolTimeout):
            return "has all its connections in use by threads of this process; use fewer at once"
        cause = getattr(error, "orig", None) or error
        code = getattr(cause, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _SQLITE:
            return _SQLITE[code & 0xFF]
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        if self._password:
            reason = reason.replace(self._password, "***")
        state = getattr(cause, "sqlstate", None)
        if state in _POSTGRES:
            return _POSTGRES[state]
        if self.is_postgres and isinstance(error, OperationalError) and (state is None or state.startswith("08")):
            return f"cannot be reached ({reason}); check MODELSERVE_STORE_URL and that the server runs"
        return f"cannot be used: {reason}"


def _parse(text: str) -> URL:
    """Raises StoreError, which never repeats the text: a password may be in it."""
    forms = "sqlite:////absolute/path.db or postgresql://user:password@host:5432/database"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise StoreError(
            f"the store's URL cannot be read; it is {forms}, where a password's special characters are percent-encoded"
        ) from None
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise StoreError(f"the store's URL begins with {url.drivername}://; it is {forms}")
    if not url.database or url.database == ":memory:":
        raise StoreError("the store's URL names a database in memory, which no other process sees; it is " + forms)
    if url.query or url.host:
        raise StoreError("the store's URL has more than a file's path after sqlite:///; it is " + forms)
    return url.set(database=str(Path(url.database).expanduser().absolute()))


def _name(url: URL) -> str:
    """For messages: what finds the database, and neither the password nor an option that may hold one."""
    if url.drivername.startswith("sqlite"):
        return str(url.database)
    places = {name: url.query[name] for name in ("host", "port") if name in url.query}
    return URL.create("postgresql", url.username, None, url.host, url.port, url.database, places).render_as_string()


def _postgres_engine(url: URL) -> Engine:
    settings: dict[str, Any] = {
        "connect_timeout": 10,
        "application_name": "modelserve",
        "client_encoding": "utf8",
        # A server whose machine is gone, and a laptop that has slept, close no connection; the system's own bounds are
        # hours, and for so long a supervisor would wait for the answer to its last report.
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    try:
        engine = create_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=True,  # the server may have been restarted since
            isolation_level="READ COMMITTED",  # with FOR UPDATE nothing is lost, and nothing has to be tried again
            connect_args={name: value for name, value in settings.items() if name not in url.query}
            | {"prepare_threshold": None},  # a pooler between us and the server may not keep prepared statements
        )
    except ImportError as error:
        raise StoreError(
            "a store in PostgreSQL needs psycopg; install it with: pip install 'modelserve[postgres]'"
        ) from error

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.execute(f"SET lock_timeout = '{BUSY_S}s'")
        connection.commit()

    return engine


def _sqlite_engine(url: URL) -> Engine:
    """Transactions are ours to begin, in SQLAlchemy's documented way (SQLite dialect, "Enabling Non-Legacy SQLite
    Transactional Modes"): the driver would begin late, and a write that begins with a read could lose to another."""
    path = Path(str(url.database))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # SQLite gives its log the mode of the file
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise StoreError(
            f"the store {path} cannot be made ({error.filename}: {error.strerror}); let this user write there, or set "
            "MODELSERVE_HOME or MODELSERVE_STORE_URL to another place"
        ) from error
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_S})

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        _write_ahead(connection)

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        write = connection.get_execution_options().get("modelserve_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Readers and a writer do not wait for each other. The change of mode, which a new file needs once, does not heed
    the driver's time-out, so it is tried until that has passed."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_POLL_S)
