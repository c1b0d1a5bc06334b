"""Runs for tests: real supervisors and servers of tiny models, awaited with a bound, and none left at the end."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from modelserve.deploy import identity, notes
from modelserve.deploy.change import Change
from modelserve.deploy.local import LocalTarget
from modelserve.deploy.record import Record, new_id, now, transition
from modelserve.deploy.states import State
from modelserve.deploy.store import Store
from modelserve.deploy.target import LogsAsked
from tests.models import tiny

WAIT_S = 60.0


class Runs:
    """The runs of one home: MODELSERVE_HOME, which the environment names."""

    def __init__(self) -> None:
        self.store = Store()
        self.target = LocalTarget(self.store)

    def new(self, path: Path | str | None = None, **spec: Any) -> Record:
        """A run that is READY, of a tiny fill-mask model unless it says otherwise."""
        id = new_id()
        record = Record(
            project="p",
            type="run",
            kind="huggingfaceserve+serve:run",
            name=id,
            id=id,
            metadata={"created": now(), "updated": now()},
            spec={
                "function": "huggingfaceserve://p/f:1",
                "task": "huggingfaceserve+serve://p/t",
                "action": "serve",
                "target": "local",
                "path": str(path or tiny("bert", "fill_mask")),
                "model_name": "tiny",
                "resources": {"cpu": {"requests": "1"}},
                **spec,
            },
        )
        for state in ("CREATED", "BUILT", "READY"):
            record = transition(record, state)
        return self.store.create(record)

    def started(self, path: Path | str | None = None, **spec: Any) -> Record:
        """One that its supervisor has been started for."""
        record = self.new(path, **spec)
        self.target.start(record)
        return record

    def now(self, record: Record) -> Record:
        return self.target.observe(self.store.get("run", "p", record.id))

    def wait(self, record: Record, *wanted: State, timeout_s: float = WAIT_S) -> Record:
        """Until it has one of the states; one that ends otherwise is not waited for."""
        ends = {"ERROR", "STOPPED"}
        found = await_(lambda: one if (one := self.now(record)).state in ends.union(wanted) else None, timeout_s)
        assert found.state in wanted, f"{found.status}\n{self.log(record)}"
        return found

    def running(self, record: Record) -> Record:
        return self.wait(record, "RUNNING")

    def move(self, record: Record, state: State) -> Record:
        """As the SDK does before it calls the target."""
        return self.store.change("run", "p", record.id, Change(state).of)

    def stop(self, record: Record, timeout_s: float | None = None) -> Record:
        self.target.stop(self.move(record, "STOP"), timeout_s)
        return self.store.get("run", "p", record.id)

    def resume(self, record: Record) -> Record:
        record = self.move(record, "RESUME")
        self.target.start(record)
        return record

    def log(self, record: Record) -> str:
        own = notes.Files(record.id).supervisor_log
        said = own.read_text() if own.exists() else ""
        return "\n".join([*self.target.logs(record, LogsAsked(30)), "-- supervisor.log", said])

    def end(self) -> None:
        """Remove what there is. Fails when something serves a run that nobody can find."""
        for record in self.store.list("run"):
            self.stop(record)
            self.target.delete(self.move(record, "DELETING"))
            self.store.delete("run", "p", record.id)
        self.store.close()
        home = os.environ["MODELSERVE_HOME"]
        assert not orphans(home)


def supervisor(record: Record) -> psutil.Process:
    """The process that keeps it, which has said so."""
    note = await_(lambda: notes.read(notes.Files(record.id).supervisor, notes.Supervisor), 20)
    process = note.identity.process()
    assert process is not None
    return process


def servers(record: Record) -> list[psutil.Process]:
    """What serves it: the server and all that it has started."""
    return identity.marked(notes.MARK, str(notes.Files(record.id).ports))


def orphans(home: str) -> list[psutil.Process]:
    """Processes with a mark of this home, whatever the run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            mark = process.environ().get(notes.MARK, "")
            if mark.startswith(home + os.sep) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def await_(look: Callable[[], Any], timeout_s: float, poll_s: float = 0.05) -> Any:
    """What `look` finds once that is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
        time.sleep(poll_s)
    return found


@contextlib.contextmanager
def runs() -> Iterator[Runs]:
    here = Runs()
    try:
        yield here
    finally:
        here.end()
