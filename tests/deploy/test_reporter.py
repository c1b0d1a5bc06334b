"""What becomes of a run reaches the store, in order, however long the store is out of reach; on real databases."""

from __future__ import annotations

import contextlib
import queue
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelserve.deploy import database, reporter
from modelserve.deploy.change import Change
from modelserve.deploy.record import Record, transition
from modelserve.deploy.reference import Key, parse_key
from modelserve.deploy.reporter import Refused, Reporter, Sealed, Unwanted
from modelserve.deploy.store import Store
from tests.deploy.postgres import Postgres

Said = queue.Queue[Sealed | Refused | Unwanted]


@pytest.fixture
def store(store_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    monkeypatch.setenv("MODELSERVE_STORE_URL", store_url)
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(reporter, "_LOOK_S", 0.1)
    store = Store()
    yield store
    store.close()


def run(store: Store, **spec: object) -> Record:
    record = Record(project="p", type="run", kind="k", name="i", id="i", spec=spec)
    for state in ("CREATED", "BUILT", "READY"):
        record = transition(record, state)
    return store.create(record)


@contextlib.contextmanager
def reporting(record: Record) -> Iterator[tuple[Reporter, Said]]:
    """Its thread is ended by taking the run away."""
    said: Said = queue.Queue()
    key: Key = parse_key(record.key)
    reports = Reporter(key, said.put)
    reports.start()
    yield reports, said
    store = Store()
    store.delete("run", "p", "i")
    store.close()
    while said.get(timeout=60) != Unwanted("DELETED"):
        pass


def path(store: Store) -> list[str]:
    return [step["status"] for step in reversed(store.get("run", "p", "i").status["transitions"])]


def test_reports_are_written_in_order(store: Store) -> None:
    with reporting(run(store)) as (reports, said):
        sealed = said.get(timeout=30)
        assert isinstance(sealed, Sealed)
        assert (sealed.record.id, sealed.secrets) == ("i", {})
        reports.report(Change("PENDING", "starting", {"host": "h"}))
        reports.report(Change("RUNNING", "", {"pid": 7}))
        reports.report(Change("PENDING", "again", {"pid": None}))
        assert reports.flush(30)
        assert path(store) == ["CREATED", "BUILT", "READY", "PENDING", "RUNNING", "PENDING"]
        status = store.get("run", "p", "i").status
        assert (status["host"], status["message"], "pid" in status) == ("h", "again", False)


def test_what_others_write_is_told_once(store: Store) -> None:
    with reporting(run(store)) as (reports, said):
        assert isinstance(said.get(timeout=30), Sealed)
        reports.report(Change("RUNNING"))
        assert reports.flush(30)
        store.change("run", "p", "i", Change("STOP").of)
        assert said.get(timeout=30) == Unwanted("STOP")
        reports.report(Change("RUNNING"))
        reports.report(Change("STOPPED"))
        assert reports.flush(30)
        assert path(store)[3:] == ["PENDING", "RUNNING", "STOP", "STOPPED"]
        assert said.get(timeout=30) == Unwanted("STOPPED")


def test_secrets_are_read_and_a_missing_one_is_said(store: Store) -> None:
    store.put_secret("p", "TOKEN", "s3cret")
    with reporting(run(store, secrets=["TOKEN"])) as (_, said):
        sealed = said.get(timeout=30)
        assert isinstance(sealed, Sealed)
        assert sealed.secrets == {"TOKEN": "s3cret"}
    with reporting(run(store, secrets=["TOKEN", "OTHER"])) as (_, said):
        assert said.get(timeout=30) == Refused("the project 'p' has no secret 'OTHER'")


@pytest.mark.slow
@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_store_out_of_reach_is_tried_again(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.2)
    with reporting(run(store)) as (reports, said):
        assert isinstance(said.get(timeout=30), Sealed)
        other = sqlite3.connect(store_url.removeprefix("sqlite:///"), isolation_level=None)
        with contextlib.closing(other):
            other.execute("BEGIN EXCLUSIVE")
            reports.report(Change("PENDING", "starting"))
            reports.report(Change("RUNNING"))
            assert not reports.flush(1.5)
            other.execute("ROLLBACK")
            assert reports.flush(30)
        assert path(store)[3:] == ["PENDING", "RUNNING"]
    said_of_it = [record.message for record in caplog.records if "the store can" in record.message]
    assert len(said_of_it) == 2
    assert said_of_it[1] == "the store can be used again"


@pytest.mark.slow
@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_postgresql_that_goes_away_is_tried_again(
    store: Store, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers nobody for a while, and then refuses everybody: a machine that hangs and is restarted."""
    with reporting(run(store)) as (reports, said):
        assert isinstance(said.get(timeout=30), Sealed)
        with postgres.frozen():
            reports.report(Change("PENDING", "starting"))
            assert not reports.flush(1.0)
        assert reports.flush(30)
        assert "the store can" not in caplog.text, "it was slow, not away"
        postgres.stop()
        reports.report(Change("RUNNING"))
        assert not reports.flush(1.5)
        postgres.start()
        assert reports.flush(30)
        assert path(store)[3:] == ["PENDING", "RUNNING"]
    said_of_it = [record.message for record in caplog.records if "the store can" in record.message]
    assert len(said_of_it) == 2
    assert said_of_it[1] == "the store can be used again"
