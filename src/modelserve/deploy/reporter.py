"""Writes what becomes of a run to the store, in order, for as long as that takes; and tells what others write there.

The store may be slow, full or gone: whoever reports does not wait for it. Knows no process. One daemon thread, the
only one of the supervisor that uses the store.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from modelserve.deploy import states
from modelserve.deploy.change import Change
from modelserve.deploy.record import Record
from modelserve.deploy.reference import Key
from modelserve.deploy.store import Store
from modelserve.errors import EntityNotFound, ModelServeError, StoreError

log = logging.getLogger("modelserve.supervise")

_LOOK_S = 2.0
"""Between two looks at the run: what another machine asks for is done within so much."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class Sealed(NamedTuple):
    """The run as the store has it, and the values of its secrets."""

    record: Record
    secrets: dict[str, str]


class Refused(NamedTuple):
    """Why the run cannot be served: what it needs is not in the store."""

    message: str


class Unwanted(NamedTuple):
    """Nobody wants it served any more: it is STOP, or ended, or not in the store ("DELETED")."""

    state: str


class Reporter:
    """tell is called by the thread: once with Sealed or Refused, later with Unwanted, once for each state."""

    def __init__(self, key: Key, tell: Callable[[Sealed | Refused | Unwanted], None]) -> None:
        self._key = key
        self._tell = tell
        self._pending: list[Change] = []
        self._told = ""
        self._sealed = False
        self._gone = False
        self._hurry = False
        self._changed = threading.Condition()

    def start(self) -> None:
        threading.Thread(target=self._work, name="store", daemon=True).start()

    def report(self, change: Change) -> None:
        with self._changed:
            self._pending.append(change)
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Whether all that was reported is in the store."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._gone or not self._pending, timeout_s)

    def _work(self) -> None:
        store: Store | None = None
        pause_s = 0.0
        while not self._gone:
            try:
                store = store or Store()
                self._turn(store)
            except EntityNotFound:
                with self._changed:  # the run is not in the store, and does not come back
                    self._gone = True
                    self._changed.notify_all()
            except Exception as error:
                if not pause_s:
                    traceback = None if isinstance(error, StoreError) else error
                    log.warning("the store cannot be used now, trying again: %s", error, exc_info=traceback)
                pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * pause_s))
                self._pause(pause_s)
                _close(store)
                store = None
            else:
                if pause_s:
                    log.warning("the store can be used again")
                pause_s = 0.0
                with self._changed:
                    self._changed.wait_for(lambda: self._pending, _LOOK_S)
        _close(store)
        self._tell(Unwanted("DELETED"))

    def _turn(self, store: Store) -> None:
        """Write what is pending, or look."""
        key = self._key
        if not self._sealed:
            self._seal(store)
            return
        changes = list(self._pending)
        if changes:
            record = store.change("run", key.project, key.id, lambda record: _after(record, changes))
            with self._changed:
                del self._pending[: len(changes)]
                self._changed.notify_all()
        else:
            record = store.get("run", key.project, key.id)
        if record.state not in states.ALIVE - {"STOP"} and record.state != self._told:
            self._told = record.state
            self._tell(Unwanted(record.state))

    def _seal(self, store: Store) -> None:
        record = store.get("run", self._key.project, self._key.id)
        try:
            names = record.spec.get("secrets", ())
            sealed: Sealed | Refused = Sealed(record, {name: store.get_secret(record.project, name) for name in names})
        except StoreError:
            raise
        except ModelServeError as error:
            sealed = Refused(error.message)
        self._sealed = True
        self._tell(sealed)

    def _pause(self, pause_s: float) -> None:
        with self._changed:
            hurried = self._hurry
            pause_s = _FIRST_PAUSE_S if hurried else pause_s
            self._changed.wait_for(lambda: self._hurry and not hurried, pause_s)


def _close(store: Store | None) -> None:
    """A connection that failed may not come back by itself; another is opened."""
    try:
        if store is not None:
            store.close()
    except Exception as error:
        log.warning("the store could not be closed: %s", error)


def _after(record: Record, changes: list[Change]) -> Record:
    for change in changes:
        record = change.of(record)
    return record
