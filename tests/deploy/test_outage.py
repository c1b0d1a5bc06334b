"""A run whose store goes away and comes back: the model answers all the while, and the state is right afterwards."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from modelserve.deploy import notes
from modelserve.deploy.record import Record
from modelserve.errors import StoreError
from tests.deploy import postgres as servers_of_postgres
from tests.deploy.postgres import Postgres
from tests.deploy.runs import Runs, await_, runs, servers, supervisor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """One of its own, since others use the one that tests share."""
    with servers_of_postgres.server() as running:
        yield running


@pytest.fixture
def here(postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path))
    with postgres.database() as url:
        monkeypatch.setenv("MODELSERVE_STORE_URL", url)
        with runs() as found:
            yield found


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/health/ready", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def steps(record: Record) -> list[tuple[str, str]]:
    return [(step["status"], step.get("message", "")) for step in reversed(record.status["transitions"])]


def test_a_store_that_goes_away(here: Runs, postgres: Postgres) -> None:
    record = here.running(here.started())
    port, pid, keeper = record.status["service"]["ports"][0]["port"], record.status["pid"], supervisor(record)

    with postgres.frozen():  # nobody is told that it is gone
        assert answers(port)
    postgres.stop()
    assert answers(port)
    with pytest.raises(StoreError, match="cannot be reached"):
        here.now(record)
    os.kill(pid, signal.SIGKILL)
    await_(lambda: [one for one in servers(record) if one.pid != pid] and answers(port), 60)
    assert keeper.is_running()

    postgres.start()
    found = await_(lambda: now if (now := here.now(record)).status.get("pid") not in (pid, None) else None, 60)
    assert found.state == "RUNNING"
    assert found.status["supervisor"] == keeper.pid
    assert steps(found)[-3:] == [
        ("RUNNING", ""),
        ("PENDING", "the server was killed by SIGKILL; starting it again (1 of 5)"),
        ("RUNNING", ""),
    ], "what happened meanwhile, in order"

    postgres.stop()
    keeper.terminate()
    await_(lambda: not keeper.is_running(), 60)
    assert servers(record) == []
    note = notes.read(notes.Files(record.id).supervisor, notes.Supervisor)
    assert note is not None
    assert note.state == "STOPPED"
    postgres.start()
    found = here.now(record)
    assert (found.state, found.status.get("service")) == ("STOPPED", None), "as its supervisor left it in a note"
    assert steps(found)[-2:] == [("STOP", ""), ("STOPPED", "")]
