"""The store, on SQLite and on PostgreSQL: what comes back, in which order, and what many writers and kills do to it."""

from __future__ import annotations

import contextlib
import logging
import random
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text

from modelserve.deploy.record import Record, new_id, now, transition
from modelserve.deploy.reference import Type
from modelserve.deploy.store import Store
from modelserve.errors import EntityExists, EntityNotFound, IllegalTransition, StoreError
from tests.deploy.programs import BEGIN, program, run_at_once

FUNCTION = "huggingfaceserve://demo/bert:1"


@pytest.fixture
def store(store_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELSERVE_SECRET_KEY", Fernet.generate_key().decode())
    store = Store(store_url)
    yield store
    store.close()


def function(name: str = "bert", created: str | None = None, **fields: Any) -> Record:
    metadata = {"created": now() if created is None else created}
    given = {"project": "demo", "kind": "huggingfaceserve", "id": new_id(), "metadata": metadata} | fields
    return Record(type="function", name=name, **given)


def task(**fields: Any) -> Record:
    id = new_id()
    given = {"project": "demo", "kind": "huggingfaceserve+serve", "spec": {"function": FUNCTION}} | fields
    return Record(type="task", name=id, id=id, **given)


def run(**fields: Any) -> Record:
    id = new_id()
    given = {"project": "demo", "kind": "huggingfaceserve+run", "spec": {"function": FUNCTION}} | fields
    return Record(type="run", name=id, id=id, metadata={"created": now()}, **given)


def project(name: str = "demo") -> Record:
    return Record(project=name, type="project", kind="project", name=name, id=name, metadata={"created": now()})


def execute(store: Store, statement: str, **values: Any) -> list[Any]:
    """What others, or a fault, did to the database."""
    with store._database.transaction(write=True) as connection:
        result = connection.execute(text(statement), values)
        return list(result) if result.returns_rows else []


def test_what_is_stored_comes_back(store: Store) -> None:
    record = transition(
        run(spec={"function": FUNCTION, "replicas": 2, "share": 0.1, "args": ["--x", None, True], "deep": {"a": [{}]}}),
        "CREATED",
        'it\'s "quoted", \u0000, ünï 🤗 and ' + "long" * 100_000,
    )
    made = store.create(record)
    assert made == record.replace(revision=1)
    assert store.get("run", "demo", record.id) == made
    assert store.list("run") == [made]


def test_each_type_is_found_where_it_is(store: Store) -> None:
    records = [store.create(one) for one in (project(), function(), task(), run())]
    for one in records:
        assert store.get(one.type, "demo", one.id) == one
        assert store.list(one.type, "demo") == [one]
        with pytest.raises(EntityNotFound):
            store.get(one.type, "other", one.id)


@pytest.mark.parametrize(
    ("type", "message"),
    [
        ("project", "there is no project 'demo'"),
        ("function", "the project 'demo' has no function 'x'"),
        ("task", "the project 'demo' has no task 'x'"),
        ("run", "the project 'demo' has no run 'x'"),
    ],
)
def test_not_found(store: Store, type: Type, message: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.get(type, "demo", "x"),
        lambda: store.latest(type, "demo", "x"),
        lambda: store.change(type, "demo", "x", lambda record: record),
    ]
    for call in calls:
        with pytest.raises(EntityNotFound) as caught:
            call()
        assert caught.value.message == message


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (project(), "there is a project 'demo' already"),
        (function(id="abc"), "the project 'demo' has a function with the id 'abc' already"),
        (task(), "the function 'huggingfaceserve://demo/bert:1' has a task 'huggingfaceserve+serve' already"),
        (run(), "the project 'demo' has a run with the id '{id}' already"),
    ],
    ids=["project", "function", "task", "run"],
)
def test_exists(store: Store, record: Record, message: str) -> None:
    made = store.create(record)
    again = record.replace(id=new_id()) if record.type == "task" else record.replace(spec={"other": 1})
    with pytest.raises(EntityExists) as caught:
        store.create(again)
    assert caught.value.message == message.format(id=record.id)
    assert store.list(record.type) == [made]


def test_what_is_no_duplicate(store: Store) -> None:
    one = store.create(function(id="abc"))
    store.create(one.replace(project="other"))
    store.create(task())
    store.create(task(kind="huggingfaceserve+batch"))
    store.create(task(spec={"function": FUNCTION + "2"}))
    store.create(task(project="other"))
    store.create(run())
    store.create(run())
    assert len(store.list("function")) == 2
    assert len(store.list("task")) == 4
    assert len(store.list("run")) == 2


def test_newest_first_by_the_instant_of_creation(store: Store) -> None:
    """Whatever form it is written in, and in the order of their making where it is the same."""
    times = {
        "third": "2026-01-01T12:00:00+00:00",
        "first": "2026-01-01T12:00:00+02:00",
        "fifth": "2026-01-01T12:00:00.000002Z",
        "second": "2026-01-01T11:59:59",
        "fourth": "2026-01-01T12:00:00Z",
    }
    for id, created in times.items():
        store.create(function(id=id, created=created))
    assert [one.id for one in store.list("function")] == ["fifth", "fourth", "third", "second", "first"]
    assert store.latest("function", "demo", "bert").id == "fifth"
    store.create(function(id="sixth", created="soon"))
    assert store.latest("function", "demo", "bert").id == "sixth"


def test_a_change_keeps_the_place_in_the_order(store: Store) -> None:
    for id in ("a", "b", "c"):
        store.create(function(id=id))
    store.change("function", "demo", "a", lambda one: one.replace(metadata=one.metadata | {"updated": now()}))
    assert [one.id for one in store.list("function")] == ["c", "b", "a"]


def test_filters(store: Store) -> None:
    store.create(run())
    wanted = store.create(transition(run(kind="mlflowserve+run", spec={"function": "f"}), "RUNNING"))
    store.create(transition(run(project="other", kind="mlflowserve+run", spec={"function": "f"}), "STOPPED"))
    assert store.list("run", "demo", kind="mlflowserve+run") == [wanted]
    assert store.list("run", "demo", function="f") == [wanted]
    assert store.list("run", state="RUNNING") == [wanted]
    assert store.list("run", name=wanted.name) == [wanted]
    assert len(store.list("run", function="f")) == 2
    assert store.list("run", "demo", kind="mlflowserve+run", state="STOPPED") == []
    assert store.list("task") == []


def test_the_state_that_is_searched_for_follows_a_change(store: Store) -> None:
    one = store.create(transition(run(), "PENDING"))
    store.change("run", "demo", one.id, lambda record: transition(record, "RUNNING"))
    assert store.list("run", state="PENDING") == []
    assert [found.id for found in store.list("run", state="RUNNING")] == [one.id]


def test_latest_versions(store: Store) -> None:
    for name, id, kind in [("a", "1", "x"), ("b", "2", "x"), ("a", "3", "y"), ("b", "4", "x")]:
        store.create(function(name, id=id, kind=kind))
    store.create(function("a", id="5", project="other", kind="x"))
    ids = {"": ["5", "4", "3"], "x": ["5", "4"], "y": ["3"]}
    for kind, expected in ids.items():
        assert [one.id for one in store.list("function", kind=kind or None, versions="latest")] == expected
    assert [one.id for one in store.list("function", "demo", versions="latest")] == ["4", "3"]
    assert [one.id for one in store.list("function", "demo", name="a", versions="latest")] == ["3"]
    assert [one.id for one in store.list("function", "demo", name="a")] == ["3", "1"]


def test_only_the_newest_version_is_loaded(store: Store) -> None:
    """The database chooses it: the older ones cannot even be read here."""
    for id in ("1", "2", "3"):
        store.create(function(id=id))
    execute(store, "UPDATE modelserve_entity SET body = 'x' WHERE id <> '3'")
    assert store.latest("function", "demo", "bert").id == "3"
    assert [one.id for one in store.list("function", versions="latest")] == ["3"]
    with pytest.raises(StoreError, match="has a record that cannot be read"):
        store.list("function")


def test_change(store: Store) -> None:
    one = store.create(run())
    changed = store.change("run", "demo", one.id, lambda record: transition(record, "BUILT"))
    assert (changed.state, changed.revision) == ("BUILT", 2)
    assert store.get("run", "demo", one.id) == changed
    assert execute(store, "SELECT state, revision FROM modelserve_entity") == [("BUILT", 2)]


def test_a_change_of_nothing_writes_nothing(store: Store) -> None:
    one = store.create(run())
    assert store.change("run", "demo", one.id, lambda record: record.replace(spec=dict(record.spec))).revision == 1
    assert store.get("run", "demo", one.id) == one


def test_a_change_in_place_is_written(store: Store) -> None:
    one = store.create(run())

    def change(record: Record) -> Record:
        record.spec["added"] = 1
        return record

    changed = store.change("run", "demo", one.id, change)
    assert (changed.spec["added"], changed.revision) == (1, 2)
    assert store.get("run", "demo", one.id) == changed


def test_a_change_that_raises_is_undone(store: Store) -> None:
    one = store.create(run())

    def refuse(record: Record) -> Record:
        raise IllegalTransition("no")

    with pytest.raises(IllegalTransition, match="no"):
        store.change("run", "demo", one.id, refuse)
    assert store.get("run", "demo", one.id) == one
    assert store.change("run", "demo", one.id, lambda record: transition(record, "ERROR")).revision == 2


def test_a_change_to_an_older_revision_is_refused(store: Store) -> None:
    old = store.create(run())
    store.change("run", "demo", old.id, lambda record: transition(record, "BUILT"))
    with pytest.raises(StoreError, match="has revision 2, and the change was made to revision 1; read it again"):
        store.change("run", "demo", old.id, lambda _: transition(old, "ERROR"))
    assert store.get("run", "demo", old.id).state == "BUILT"


@pytest.mark.parametrize("field", ["project", "type", "kind", "name", "id", "spec.function"])
def test_what_an_entity_is_known_by_does_not_change(store: Store, field: str) -> None:
    one = store.create(task())
    other: dict[str, Any] = {"spec": {"function": "x"}} if field == "spec.function" else {field: "run"}
    with pytest.raises(StoreError, match=f"is known by its {field}, which cannot change"):
        store.change("task", "demo", one.id, lambda record: record.replace(**other))
    assert store.list("task") == [one]


def test_delete(store: Store) -> None:
    one, other = store.create(run()), store.create(run())
    store.delete("run", "demo", one.id)
    store.delete("run", "demo", one.id)
    assert store.list("run") == [other]
    assert store.create(one).revision == 1


@pytest.mark.parametrize("value", [object(), "\ud800"], ids=["object", "surrogate"])
def test_what_json_cannot_hold(store: Store, value: object) -> None:
    with pytest.raises(
        StoreError, match=r"store://demo/run/.* cannot be stored \(.*\); what is stored is text, numbers"
    ):
        store.create(run(spec={"x": value}))
    assert store.list("run") == []


def test_secrets(store: Store) -> None:
    store.put_secret("demo", "TOKEN", "first")
    store.put_secret("demo", "TOKEN", "second ünï 🤗\n")
    store.put_secret("demo", "EMPTY", "")
    store.put_secret("other", "TOKEN", "theirs")
    assert store.list_secrets("demo") == ["EMPTY", "TOKEN"]
    assert store.get_secret("demo", "TOKEN") == "second ünï 🤗\n"
    assert store.get_secret("demo", "EMPTY") == ""
    assert store.get_secret("other", "TOKEN") == "theirs"
    store.delete_secret("demo", "TOKEN")
    store.delete_secret("demo", "TOKEN")
    with pytest.raises(EntityNotFound, match="the project 'demo' has no secret 'TOKEN'"):
        store.get_secret("demo", "TOKEN")
    assert store.list_secrets("demo") == ["EMPTY"]
    assert store.get_secret("other", "TOKEN") == "theirs"


def test_a_secret_is_nowhere_in_clear(store: Store, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Not in the database, its files, or a log that shows every statement."""
    value = "hunter2-in-clear"
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("sqlalchemy.engine").setLevel(logging.DEBUG)
        try:
            store.put_secret("demo", "TOKEN", value)
            assert store.get_secret("demo", "TOKEN") == value
        finally:
            logging.getLogger("sqlalchemy.engine").setLevel(logging.NOTSET)
    assert "INSERT INTO modelserve_secret" in caplog.text
    assert value not in caplog.text
    [row] = execute(store, "SELECT * FROM modelserve_secret")
    assert value not in str(row)
    for path in tmp_path.rglob("modelserve.db*"):
        assert value.encode() not in path.read_bytes()


def test_a_secret_is_in_no_error(store: Store) -> None:
    execute(store, "DROP TABLE modelserve_secret")
    value = new_id()
    with pytest.raises(StoreError, match="modelserve_secret") as caught:
        store.put_secret("demo", "TOKEN", value)
    assert value not in "".join(traceback.format_exception(caught.value))


def test_a_store_does_not_show_its_password(store: Store, store_url: str) -> None:
    assert "hunter2" not in repr(store)
    assert repr(store).startswith("Store('postgresql://modelserve@/" if "hunter2" in store_url else "Store('/")


def test_without_a_url_the_environment_names_the_store(
    store_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODELSERVE_STORE_URL", store_url)
    with contextlib.closing(Store()) as one, contextlib.closing(Store(store_url)) as other:
        assert one.create(run()) == other.list("run")[0]
    monkeypatch.delenv("MODELSERVE_STORE_URL")
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path / "another"))
    with contextlib.closing(Store()) as one:
        assert one.list("run") == []
    assert (tmp_path / "another" / "modelserve.db").exists()


def test_a_reopened_store_has_it_all(store: Store, store_url: str) -> None:
    one = store.create(run())
    store.put_secret("demo", "TOKEN", "value")
    store.close()
    with contextlib.closing(Store(store_url)) as again:
        assert again.list("run") == [one]
        assert again.get_secret("demo", "TOKEN") == "value"


def count(record: Record) -> Record:
    return record.replace(spec={"count": record.spec["count"] + 1})


def test_threads(store: Store) -> None:
    one = store.create(run(spec={"count": 0}))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(25):
                store.change("run", "demo", one.id, count)
                store.list("run")
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert (store.get("run", "demo", one.id).spec, store.get("run", "demo", one.id).revision) == ({"count": 200}, 201)


COUNT = f"""
import sys
from modelserve.deploy.store import Store
{BEGIN}
store = Store(sys.argv[1])
for _ in range(200):
    store.change("run", "demo", "counter", lambda one: one.replace(spec={{"count": one.spec["count"] + 1}}))
store.close()
"""


@pytest.mark.slow
def test_two_processes_lose_nothing(store: Store, store_url: str) -> None:
    if (
        "postgresql" in store_url
    ):  # where it does the most harm: transactions that cannot wait for each other would fail
        [(database,)] = execute(store, "SELECT current_database()")
        execute(store, f"ALTER DATABASE {database} SET default_transaction_isolation TO 'serializable'")
    store.create(run(spec={"count": 0}).replace(id="counter"))
    run_at_once(COUNT, [(store_url,), (store_url,)])
    counted = store.get("run", "demo", "counter")
    assert (counted.spec, counted.revision) == ({"count": 400}, 401)


CREATE = f"""
import sys
from modelserve.deploy.record import Record
from modelserve.deploy.store import Store
from modelserve.errors import EntityExists
{BEGIN}
store = Store(sys.argv[1])
made = 0
for number in range(50):
    try:
        name = f"p{{number}}"
        store.create(Record(project=name, type="project", kind="project", name=name, id=name))
        made += 1
    except EntityExists:
        pass
    store.put_secret("demo", "TOKEN", sys.argv[2])
store.close()
print(made)
"""


@pytest.mark.slow
def test_processes_that_make_the_same(store: Store, store_url: str) -> None:
    made = run_at_once(CREATE, [(store_url, str(number)) for number in range(3)])
    assert sum(map(int, made)) == 50
    assert len(store.list("project")) == 50
    assert store.get_secret("demo", "TOKEN") in ("0", "1", "2")


FORK = """
import os, sys
from modelserve.deploy.record import Record
from modelserve.deploy.store import Store
store = Store(sys.argv[1])
store.create(Record(project="demo", type="run", kind="k", name="x", id="x", spec={"count": 0}))
def count():
    for _ in range(50):
        store.change("run", "demo", "x", lambda one: one.replace(spec={"count": one.spec["count"] + 1}))
child = os.fork()
count()
if child == 0:
    store.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
count()
print(store.get("run", "demo", "x").spec["count"])
store.close()
"""


def test_a_forked_process(store: Store, store_url: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORK, store_url], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("150\n", "")


WRITE = """
import sys
from modelserve.deploy.record import Record, now
from modelserve.deploy.store import Store
url, me = sys.argv[1:]
store = Store(url)
store.create(Record(project="demo", type="run", kind="k", name=me, id=me, spec={"count": 0}, status={"history": []}))
print(0, flush=True)
def step(one):
    count = one.spec["count"] + 1
    spec = {"count": count, "padding": chr(97 + count % 26) * 30_000}
    return one.replace(spec=spec, status={"state": f"S{count}", "history": [count, *one.status["history"]]})
for number in range(1, 1_000_000):
    store.change("run", "demo", me, step)
    store.change("run", "demo", "shared", step)
    store.create(Record(project="demo", type="function", kind="k", name=me, id=f"{me}-{number}"))
    store.put_secret("demo", me, str(number))
    print(number, flush=True)
"""


def check_writer(one: Record) -> int:
    """How often a record was written, each time by WRITE and whole."""
    written = one.spec["count"]
    assert one.revision == written + 1
    assert one.status["history"] == list(range(written, 0, -1))
    assert one.spec.get("padding", "") == chr(97 + written % 26) * 30_000 if written else True
    assert one.state == (f"S{written}" if written else "")
    return int(written)


def wait_for_the_killed(store: Store) -> None:
    """Until PostgreSQL has ended what it was doing for clients that are gone."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    deadline = time.monotonic() + 30
    while execute(store, others) != [(0,)]:
        assert time.monotonic() < deadline, "PostgreSQL still works for a client that was killed"
        time.sleep(0.01)


@pytest.mark.slow
def test_kill_at_random_points(store: Store, store_url: str) -> None:
    """40 writers, four at a time: what a writer said that it had written is there, once, and nothing is half there."""
    shared = run(spec={"count": 0}, status={"history": []}).replace(id="shared")
    store.create(shared)
    chance = random.Random(20261126)
    least = most = 0
    for turn in range(10):
        names = [f"writer-{turn}-{place}" for place in range(4)]
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(program(WRITE, store_url, name)) for name in names]
            said = []
            for writer in writers:
                assert writer.stdout is not None
                assert writer.stdout.readline() == "0\n", writer.communicate()
            for writer in writers:
                time.sleep(chance.uniform(0, 0.15))  # the point in time is what this is about
                writer.kill()
            for writer in writers:
                assert writer.stdout is not None
                assert writer.stderr is not None
                output, errors = writer.stdout.read(), writer.stderr.read()
                assert (writer.wait(30), errors) == (-9, "")
                said.append(int(["0", *output.split("\n")[:-1]][-1]))
        if "postgresql" in store_url:
            wait_for_the_killed(store)
        for name, acknowledged in zip(names, said, strict=True):
            assert check_writer(store.get("run", "demo", name)) in (acknowledged, acknowledged + 1)
            made = len(store.list("function", "demo", name=name))
            assert made in (acknowledged, acknowledged + 1)
            assert acknowledged == 0 or store.get_secret("demo", name) in (str(acknowledged), str(acknowledged + 1))
        least, most = least + sum(said), most + sum(said) + len(said)
        assert least <= check_writer(store.get("run", "demo", "shared")) <= most
    assert least > 40, "the writers were killed before they wrote"
    assert len(store.list("run", "demo")) == 41
    columns = execute(store, "SELECT id, state, revision FROM modelserve_entity WHERE type = 'run'")
    assert sorted(columns) == sorted((one.id, one.state, one.revision) for one in store.list("run"))
    if "sqlite" in store_url:
        assert execute(store, "PRAGMA integrity_check") == [("ok",)]


def test_sqlite_keeps_its_log_small(tmp_path: Path) -> None:
    path = tmp_path / "modelserve.db"
    with contextlib.closing(Store(f"sqlite:///{path}")) as store:
        one = store.create(run(spec={"text": ""}))
        for number in range(150):
            text = str(number) * 50_000
            store.change("run", "demo", one.id, lambda record, text=text: record.replace(spec={"text": text}))  # type: ignore[misc]
        assert path.with_name("modelserve.db-wal").stat().st_size < 5 * 1024 * 1024
        assert store.get("run", "demo", one.id).spec["text"] == "149" * 50_000
    assert [name.name for name in tmp_path.iterdir()] == ["modelserve.db"]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_store_imports_what_it_needs(tmp_path: Path) -> None:
    """`modelserve runs` waits for these imports."""
    heavy = {"sqlalchemy.orm", "psycopg", "cryptography", "keyring", "numpy", "torch", "greenlet"}
    source = (
        "import sys; from modelserve.deploy.store import Store; store = Store(sys.argv[1]); store.list('run')\n"
        f"store.close(); print(sorted(set(sys.modules) & {heavy}))"
    )
    command = [sys.executable, "-c", source, f"sqlite:///{tmp_path / 'modelserve.db'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
