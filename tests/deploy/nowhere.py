"""A target that serves nothing: what the SDK asks of targets is noted, states move as a real one moves them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest

from modelserve import registry
from modelserve.deploy.change import Change
from modelserve.deploy.local import _Clock
from modelserve.deploy.record import Record
from modelserve.deploy.store import Store
from modelserve.deploy.target import Changes, LogsAsked, Progress, Reach, Usage
from modelserve.errors import TargetError

ASKED: list[tuple[str, str]] = []
"""(what, run id), in order."""


class Nowhere:
    name = "local"

    def __init__(self, store: Store) -> None:
        self._store = store

    def start(self, record: Record) -> None:
        self._note("start", record)
        if record.spec.get("service_name") == "fails":
            raise TargetError("there is no room")
        if record.spec.get("service_name") == "has-no-disk":
            raise OSError(28, "No space left on device")
        self._store.change("run", record.project, record.id, Change("PENDING").of)

    def observe(self, record: Record) -> Record:
        return record

    def progress(self, record: Record) -> Progress:
        return Progress("load", 0.5)

    def usage(self, record: Record) -> Usage:
        return Usage()

    def stop(self, record: Record, timeout_s: float | None = None) -> None:
        self._note("stop", record)
        self._store.change("run", record.project, record.id, Change("STOPPED").of)

    def delete(self, record: Record) -> None:
        self._note("delete", record)

    def logs(self, record: Record, asked: LogsAsked, *, follow: bool = False) -> Iterator[str]:
        yield from ["one", "two", "three"][-(asked.tail or 3) :]

    def changes(self, record: Record) -> AbstractContextManager[Changes]:
        return nullcontext(_Clock())

    def reach(self, record: Record) -> Reach:
        return Reach(f"http://{record.status['service']['url']}")

    def _note(self, what: str, record: Record) -> None:
        ASKED.append((what, record.id))


def use(monkeypatch: pytest.MonkeyPatch, home: object) -> None:
    """A home of its own, and this target for what is served there."""
    monkeypatch.setenv("MODELSERVE_HOME", str(home))
    for name in ("MODELSERVE_STORE_URL", "MODELSERVE_TARGET", "MODELSERVE_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(registry.TARGETS, "local", "tests.deploy.nowhere:Nowhere")
    ASKED.clear()
