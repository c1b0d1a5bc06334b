"""What can be wrong with a database, and the sentence that says so: its name, the fault, what to do, no password."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path

import pytest

from modelserve.deploy import database as databases
from modelserve.deploy.record import Record, new_id
from modelserve.deploy.store import Store
from modelserve.errors import StoreError
from tests.deploy.postgres import Postgres

PASSWORD = "hunter2"


def record(**spec: object) -> Record:
    id = new_id()
    return Record(project="demo", type="run", kind="k", name=id, id=id, spec=spec)


def refused(url: str) -> str:
    """What opening it says. Neither that nor a traceback has the password."""
    with pytest.raises(StoreError) as caught:
        Store(url)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    return caught.value.message


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("hunter2", "the store's URL cannot be read; it is sqlite:////absolute/path.db or postgresql://"),
        ("postgresql://user:hunter2@host:port/db", "the store's URL cannot be read"),
        ("mysql://user:hunter2@host/db", "the store's URL begins with mysql://; it is sqlite:///"),
        ("postgresql+asyncpg://user:hunter2@host/db", r"the store's URL begins with postgresql\+asyncpg://"),
        ("sqlite://", "the store's URL names a database in memory, which no other process sees"),
        ("sqlite:///:memory:", "the store's URL names a database in memory"),
        ("sqlite:///store.db?mode=ro", "the store's URL has more than a file's path after sqlite:///"),
        ("sqlite://user:hunter2@host/store.db", "the store's URL has more than a file's path after sqlite:///"),
    ],
)
def test_urls_that_name_no_store(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        refused(url) and Store(url)


def test_a_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "modelserve.db"
    with contextlib.closing(Store(f"sqlite:///{path}")) as store:
        store.create(record())
        modes = {name.name: stat.S_IMODE(name.stat().st_mode) for name in path.parent.iterdir()}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert modes == {"modelserve.db": 0o600, "modelserve.db-wal": 0o600, "modelserve.db-shm": 0o600}


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(Store("sqlite:///here.db")) as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.create(record())
        assert repr(store) == f"Store('{tmp_path / 'here.db'}')"
    assert not (tmp_path / "elsewhere" / "here.db").exists()


def test_no_place_for_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "modelserve.db"
    assert refused(f"sqlite:///{path}") == (
        f"the store {path} cannot be made ({tmp_path}/file: File exists); let this user write there, or set "
        "MODELSERVE_HOME or MODELSERVE_STORE_URL to another place"
    )


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert refused(f"sqlite:///{tmp_path}") == (
        f"the store {tmp_path} cannot be opened; let this user read and write the file and its directory"
    )


def test_no_sqlite_database(tmp_path: Path) -> None:
    path = tmp_path / "modelserve.db"
    path.write_text("This is a text, and long enough for it.\n" * 100)
    assert refused(f"sqlite:///{path}") == (
        f"the store {path} is no SQLite database; move the file away, or set MODELSERVE_STORE_URL to another"
    )


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "modelserve.db"
    with contextlib.closing(Store(f"sqlite:///{path}")) as store:
        for _ in range(20):
            store.create(record(text="x" * 1000))
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xff" * (path.stat().st_size - 2 * 4096))
    with contextlib.closing(Store(f"sqlite:///{path}")) as store, pytest.raises(StoreError) as caught:
        store.list("run")
    assert caught.value.message == (
        f"the store {path} is damaged; put a copy back, or save what `sqlite3 FILE .recover` can read"
    )


def test_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "BUSY_S", 0.2)
    path = tmp_path / "modelserve.db"
    with contextlib.closing(Store(f"sqlite:///{path}")) as store, contextlib.closing(sqlite3.connect(path)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        assert store.list("run") == []  # readers do not wait
        with pytest.raises(StoreError, match=f"the store {path} was locked by another process for"):
            store.create(record())
        other.execute("ROLLBACK")
        store.create(record())


def test_a_large_log_is_moved_by_whoever_writes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when one cannot, as another process writes."""
    monkeypatch.setattr(databases, "BUSY_S", 0.2)
    monkeypatch.setattr(databases, "WAL_BYTES", 10_000)
    path = tmp_path / "modelserve.db"
    with contextlib.closing(Store(f"sqlite:///{path}")) as store, contextlib.closing(sqlite3.connect(path)) as other:
        store.create(record(text="x" * 20_000))
        large = path.with_name("modelserve.db-wal").stat().st_size
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="was locked by another process"):
            store.create(record())
        other.execute("ROLLBACK")
        store.create(record())
        assert path.with_name("modelserve.db-wal").stat().st_size < large
        assert len(store.list("run")) == 2


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_that_is_not_the_one_that_was_opened(tmp_path: Path, how: str) -> None:
    """What is written to it would be lost with this process."""
    path = tmp_path / "modelserve.db"
    with contextlib.closing(Store(f"sqlite:///{path}")) as store:
        store.create(record())
        path.rename(tmp_path / "old.db")
        if how == "replaced":
            Store(f"sqlite:///{path}").close()
        for call in (lambda: store.create(record()), lambda: store.list("run")):
            with pytest.raises(StoreError) as caught:
                call()
            assert caught.value.message == (
                f"the store {path} was removed or replaced while it was open; start this process again"
            )


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """As a quota does it; SQLite cannot tell it from a fault of the disk."""
    program = """
        import resource, sys
        store = Store(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        try:
            while True:
                store.create(record(text="x" * 20_000))
        except StoreError as error:
            print(error, len(store.list("run")))
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        store.create(record())
        print(len(store.list("run")))
        store.close()
    """
    path = tmp_path / "modelserve.db"
    said, after = run(program, f"sqlite:///{path}").splitlines()
    message, _, whole = said.rpartition(" ")
    assert message == (f"the store {path} cannot be read or written; look at its disk, quota and file size limit")
    assert int(whole) > 3
    assert int(after) == int(whole) + 1


MOUNTS = shutil.which("unshare") is not None and subprocess.run(["unshare", "--mount", "true"]).returncode == 0
own_disk = pytest.mark.skipif(not MOUNTS, reason="only root may mount the small disk that this test fills")


@own_disk
def test_disk_full(tmp_path: Path) -> None:
    program = """
        import os, sys
        disk = sys.argv[1]
        filler = os.path.join(disk, "filler")
        with open(filler, "wb") as file:
            file.write(bytes(1_000_000))
        store = Store(f"sqlite:///{disk}/modelserve.db")
        try:
            while True:
                store.create(record(text="x" * 20_000))
        except StoreError as error:
            print(error)
        whole = len(store.list("run"))
        os.remove(filler)
        store.create(record())
        print(whole > 3, len(store.list("run")) - whole)
        store.close()
        rest = os.open(filler, os.O_WRONLY | os.O_CREAT)
        try:
            while os.write(rest, bytes(100)):
                pass
        except OSError:
            pass
        try:
            Store(f"sqlite:///{disk}/other.db")
        except StoreError as error:
            print(error)
    """
    full, after, unmade = run(program, str(tmp_path), disk="2m").splitlines()
    advice = "because the disk is full; free some space"
    assert full == f"the store {tmp_path}/modelserve.db cannot be written {advice}"
    assert after == "True 1"
    assert unmade.startswith(f"the store {tmp_path}/other.db cannot be ")


@own_disk
def test_read_only(tmp_path: Path) -> None:
    program = """
        import subprocess, sys
        disk = sys.argv[1]
        store = Store(f"sqlite:///{disk}/modelserve.db")
        store.create(record())
        store.close()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for name in ("modelserve.db", "other.db"):
            try:
                Store(f"sqlite:///{disk}/{name}").create(record())
            except StoreError as error:
                print(error)
    """
    there, new = run(program, str(tmp_path), disk="2m").splitlines()
    assert there == (
        f"the store {tmp_path}/modelserve.db cannot be opened; let this user read and write the file and its directory"
    )
    assert new.startswith(
        f"the store {tmp_path}/other.db cannot be made ({tmp_path}/other.db: Read-only file system); "
    )


def test_a_read_only_file(tmp_path: Path) -> None:
    """Its directory may be written, as when an administrator protects the file."""
    program = """
        import os, sys
        path = sys.argv[1]
        store = Store(f"sqlite:///{path}")
        store.create(record())
        store.close()
        os.chmod(path, 0o444)
        if os.geteuid() == 0:
            os.chmod(os.path.dirname(path), 0o777)
            os.setuid(65534)
        store = Store(f"sqlite:///{path}")
        print(len(store.list("run")))
        try:
            store.create(record())
        except StoreError as error:
            print(error)
        store.close()
    """
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)  # pytest's own directories are closed to the user that root becomes
        path = Path(place) / "deep" / "modelserve.db"
        assert run(program, str(path)).splitlines() == [
            "1",
            f"the store {path} is read only; let this user write the file and its directory",
        ]


def run(program: str, argument: str, disk: str = "") -> str:
    """What a program prints. disk: the size of the disk that it has at `argument`, which is gone afterwards."""
    source = "from tests.deploy.test_database import Store, StoreError, record\n" + textwrap.dedent(program)
    command = [sys.executable, "-c", source, argument]
    if disk:
        mount = f'mount -t tmpfs -o size={disk} none "$1" && shift && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mount, "sh", argument, *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert refused(f"postgres://user:{PASSWORD}@127.0.0.1:1/db") == (
        "a store in PostgreSQL needs psycopg; install it with: pip install 'modelserve[postgres]'"
    )


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_no_server(scheme: str) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers there, and nobody else gets it
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        message = refused(f"{scheme}://user:{PASSWORD}@127.0.0.1:{port}/db?application_name={PASSWORD}")
    assert message.startswith(f"the store postgresql://user@127.0.0.1:{port}/db cannot be reached (")
    assert message.endswith("Connection refused); check MODELSERVE_STORE_URL and that the server runs")


def test_no_such_database(postgres: Postgres) -> None:
    assert 'database "nothing" does not exist' in refused(postgres.url("nothing"))


def test_a_wrong_password(postgres: Postgres) -> None:
    message = refused(postgres.url("postgres").replace("hunter2@", "hunter22@"))
    assert "cannot be reached (" in message
    assert 'password authentication failed for user "modelserve"' in message


def test_a_user_without_rights(postgres: Postgres) -> None:
    with postgres.database() as url, postgres.connect() as connection:
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'hunter2'")
        try:
            message = refused(f"postgresql://guest:hunter2@/{url.partition('@/')[2]}")
        finally:
            connection.execute("DROP ROLE guest")
    assert message.endswith(" refuses this user; GRANT it the tables and, where they are still to be made, CREATE")


def test_a_server_that_only_reads(postgres: Postgres) -> None:
    with postgres.database() as url, postgres.connect() as connection:
        Store(url).close()
        name = url.partition("@/")[2].partition("?")[0]
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with contextlib.closing(Store(url)) as store:
            assert store.list("run") == []
            with pytest.raises(StoreError, match="is read only; set MODELSERVE_STORE_URL to the primary server"):
                store.create(record())


def test_what_postgresql_cannot_hold(postgres: Postgres) -> None:
    """Names are checked long before; it is not told as a server that cannot be reached."""
    with postgres.database() as url, contextlib.closing(Store(url)) as store, pytest.raises(StoreError) as caught:
        store.create(record().replace(kind="\0"))
    assert " cannot be used: " in caught.value.message
    assert "NUL" in caught.value.message


def test_a_row_that_another_holds(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "BUSY_S", 0.2)
    with postgres.database() as url, contextlib.closing(Store(url)) as store:
        one, other = store.create(record()), store.create(record())
        with postgres.connect(url.partition("@/")[2].partition("?")[0]) as connection, connection.transaction():
            connection.execute("SELECT * FROM modelserve_entity WHERE id = %s FOR UPDATE", [one.id])
            store.change("run", "demo", other.id, lambda record: record.replace(spec={"x": 1}))
            with pytest.raises(StoreError, match="was locked by another process for"):
                store.change("run", "demo", one.id, lambda record: record.replace(spec={"x": 1}))
        assert store.change("run", "demo", one.id, lambda record: record.replace(spec={"x": 1})).revision == 2


def test_a_connection_that_was_cut_off_is_made_again(postgres: Postgres) -> None:
    """As when the server is restarted."""
    with postgres.database() as url, contextlib.closing(Store(url)) as store:
        one = store.create(record())
        with postgres.connect() as connection:
            name = url.partition("@/")[2].partition("?")[0]
            cut = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s", [name]
            ).fetchone()
        assert cut is not None
        assert cut[0] >= 1
        assert store.list("run") == [one]


def test_a_server_that_vanishes_is_not_waited_for(postgres: Postgres) -> None:
    """Its machine is gone, and its kernel says nothing: ours gives up in half a minute, unless the URL says another."""
    with postgres.database() as url:
        for also, expected in (("", "15"), ("&keepalives_idle=60", "60")):
            with (
                contextlib.closing(databases.Database(url + also)) as database,
                database.transaction(write=False) as one,
            ):
                found = one.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
                assert found["keepalives_idle"] == expected
                assert (found["keepalives_interval"], found["keepalives_count"]) == ("5", "3")
                assert found["tcp_user_timeout"] == "30000"
