"""The target `local`: runs on this machine, each kept by a supervisor process that outlives whoever started it.

Whether something works for a run is told by its lock (lock.py), not by a pid; what is to be signalled by an identity
(identity.py). Any process finds, reads, stops and removes a run here. Blocking; the caller's thread.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import psutil

from modelserve import environment, flags
from modelserve.deploy import identity, limits, lock, log_lines, notes, parameters, states
from modelserve.deploy.change import NOTHING_SERVES, Change
from modelserve.deploy.home import home
from modelserve.deploy.lock import Lock
from modelserve.deploy.record import Record, now
from modelserve.deploy.store import Store
from modelserve.deploy.target import Changes, LogsAsked, Progress, Reach, Usage
from modelserve.errors import EntityNotFound, TargetError

_START_WAIT_S = 15.0
"""For a supervisor that has said STOPPED or ERROR to be gone: it writes its last report for 10 s at most."""
_STARTING_S = 10.0
"""Between the SDK's READY and the lock of whoever starts the run, nobody holds it and nothing is wrong."""
_GRACE_S = 15.0
"""Beyond --shutdown_timeout, before `stop` ends the supervisor by force: it kills its server after 5 s itself."""
_KILL_S = 10.0
_POLL_S = 0.05
_LOOK_S = 0.25
_TO_BEGIN = ("READY", "RESUME")
_SUPERVISE = ("-m", "modelserve", "supervise")
ALL = LogsAsked()
_NOT_ITS = (notes.MARK, environment.PARENT_FD)
"""Of a server whose model starts a run itself: that run is not a part of it, and does not end with it."""


class LocalTarget:
    """Serves runs on this machine."""

    name = "local"

    def __init__(self, store: Store) -> None:
        self._store = store

    def start(self, record: Record) -> None:
        """Begin to serve; nothing is done for a run that others have begun to serve, stopped or removed meanwhile."""
        files = notes.Files(record.id)
        files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + _START_WAIT_S
        while (held := Lock.take(files.lock, _LOOK_S)) is None:
            if _state(lambda: self._store.get("run", record.project, record.id)) not in _TO_BEGIN:
                return
            if time.monotonic() >= deadline:
                raise TargetError(
                    f"the run's former supervisor{_pid(files)} does not end; end it and resume the run again"
                )
        try:
            state = _state(lambda: self._store.change("run", record.project, record.id, _begun))
            if state in _TO_BEGIN:
                for former in (files.supervisor, files.live):
                    former.unlink(missing_ok=True)
                _spawn(record.key, files, held)
            elif state in ("DELETING", "DELETED"):  # by others, who may have removed the directory before it was made
                shutil.rmtree(files.directory, ignore_errors=True)
        except OSError as error:
            raise TargetError(f"the run's supervisor could not be started: {error}") from error
        finally:
            held.close()

    def observe(self, record: Record) -> Record:
        if record.state not in states.ALIVE or not _is_here(record):
            return record
        files = notes.Files(record.id)
        with lock.unheld(files.lock) as free:
            if not free:
                return record
            return self._store.change("run", record.project, record.id, lambda one: _judged(one, files))

    def progress(self, record: Record) -> Progress:
        if record.state == "RUNNING":
            return Progress("ready", 1.0)
        if record.state not in states.ALIVE:
            return Progress()
        live = notes.live(notes.Files(record.id).live)
        return Progress(live.stage, live.progress)

    def usage(self, record: Record) -> Usage:
        if record.state not in states.ALIVE:
            return Usage()
        live = notes.live(notes.Files(record.id).live)
        return Usage(live.cpu, live.memory_bytes, live.requests_per_s)

    def stop(self, record: Record, timeout_s: float | None = None) -> None:
        bound_s = _drain_s(record) if timeout_s is None else timeout_s
        if _is_here(record):
            _end(notes.Files(record.id), bound_s)
            self._store.change("run", record.project, record.id, Change("STOPPED", "", NOTHING_SERVES).of)
        elif not _wait(lambda: self._has_ended(record), bound_s):
            raise TargetError(
                f"the run is served on {_place(record)}, where it has not been stopped within {bound_s:g} s; "
                "stop it there"
            )

    def delete(self, record: Record) -> None:
        """Its supervisor, where it is another machine's, sees that the run is gone and removes what it keeps there."""
        files = notes.Files(record.id)
        if not _is_here(record):
            return
        _end(files, _drain_s(record))
        held = None
        try:
            held = Lock.take(files.lock, _START_WAIT_S)
            note = notes.read(files.supervisor, notes.Supervisor)
            if note is not None and note.cgroup:
                limits.remove(Path(note.cgroup))
            shutil.rmtree(files.directory)
        except FileNotFoundError:
            return  # there was none, or the supervisor, which was told of the same, was faster
        except OSError as error:
            raise TargetError(f"{files.directory} could not be removed: {error}") from error
        finally:
            if held is not None:
                held.close()

    def logs(self, record: Record, asked: LogsAsked = ALL, *, follow: bool = False) -> Iterator[str]:
        if asked != LogsAsked(tail=asked.tail):
            raise TargetError(
                "since, container and previous are for runs in a cluster; this run has one log, take tail"
            )
        if not _is_here(record):
            raise TargetError(f"the run's log is on {_place(record)}; read it there")
        ended = (lambda: self._has_ended(record)) if follow else None
        return log_lines.read(notes.Files(record.id).directory, asked.tail, ended)

    def changes(self, record: Record) -> AbstractContextManager[Changes]:
        return nullcontext(_Clock())

    def reach(self, record: Record) -> Reach:
        return Reach(f"http://{record.status['service']['url']}")

    def _has_ended(self, record: Record) -> bool:
        """As it is now."""
        if _is_here(record) and lock.is_held(notes.Files(record.id).lock):
            return False
        try:
            found = self.observe(self._store.get("run", record.project, record.id))
        except EntityNotFound:
            return True
        return found.state not in states.ALIVE


class _Clock:
    """The store is this machine's, or near it: looking often costs little."""

    def wait(self, pause_s: float, most_s: float) -> None:
        time.sleep(min(pause_s, most_s))


def _is_here(record: Record) -> bool:
    """Whether it is kept on this machine and in this home: another's processes and locks cannot be seen from here,
    though the store may be shared. What nobody has begun to serve is anybody's."""
    return all(record.status.get(name, value) == value for name, value in notes.here().items())


def _place(record: Record) -> str:
    """Where it is kept, for a person who is elsewhere."""
    return f"{record.status.get('host')} (MODELSERVE_HOME={record.status.get('home')})"


def _state(look: Callable[[], Record]) -> str:
    """Of the record that the store gives; DELETED where it is not there any more."""
    try:
        return look().state
    except EntityNotFound:
        return "DELETED"


def _begun(record: Record) -> Record:
    """Who serves it, and since when: from now on, nobody holding the lock means that something went wrong. One that is
    not to be begun any more stays as it is."""
    if record.state not in _TO_BEGIN:
        return record
    return record.replace(status=record.status | notes.here() | {"begun": now()})


def _judged(record: Record, files: notes.Files) -> Record:
    """The run that nobody works for. The lock is held while this is decided."""
    if record.state not in states.ALIVE:
        return record
    if record.state == "STOP":
        return Change("STOPPED", "", NOTHING_SERVES).of(record)
    if not _was_begun(record):
        if _age_s(record) < _STARTING_S:
            return record
        return Change("ERROR", "whoever was to start it is gone", NOTHING_SERVES).of(record)
    note = notes.read(files.supervisor, notes.Supervisor)
    if note is not None and note.state:
        return Change(note.state, note.message, NOTHING_SERVES).of(record)
    last = "" if note is not None else _last_line(files.supervisor_log)
    message = f"its supervisor{_pid(files)} is gone: it was killed, or the machine was restarted"
    return Change("ERROR", f"its supervisor failed: {last}" if last else message, NOTHING_SERVES).of(record)


def _was_begun(record: Record) -> bool:
    """Whether somebody has held the lock since the run was handed to this target."""
    since: str = record.status["transitions"][0]["time"]
    return record.state not in _TO_BEGIN or record.status.get("begun", "") >= since


def _age_s(record: Record) -> float:
    since = datetime.fromisoformat(record.status["transitions"][0]["time"])
    return (datetime.now(UTC) - since).total_seconds()


def _spawn(key: str, files: notes.Files, held: Lock) -> None:
    """The supervisor, which has the lock as soon as it is there. Raises OSError."""
    if files.supervisor_log.exists():
        files.supervisor_log.replace(files.supervisor_log.with_suffix(".log.1"))
    variables = {name: value for name, value in os.environ.items() if name not in _NOT_ITS}
    with files.supervisor_log.open("wb") as log:
        supervisor = subprocess.Popen(
            # -P: what lies in the working directory is not ours to import, such as somebody's logging.py.
            [sys.executable, "-P", *_SUPERVISE, key],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=variables | {"MODELSERVE_HOME": str(home()), lock.VARIABLE: str(held.fd)},
            pass_fds=(held.fd,),
            start_new_session=True,
        )
    # Its exit status is fetched while this process lives; it would stay in the table of processes otherwise.
    threading.Thread(target=supervisor.wait, name="supervisor", daemon=True).start()


def _end(files: notes.Files, bound_s: float) -> None:
    """Have the supervisor end its server and itself; by force when that takes longer. Raises TargetError."""
    signalled: identity.Identity | None = None

    def ended() -> bool:
        nonlocal signalled
        if not lock.is_held(files.lock):
            return True
        note = notes.read(files.supervisor, notes.Supervisor)
        if note is not None and note.identity != signalled:
            signalled = note.identity
            _signal(note.identity, signal.SIGTERM)
        return False

    deadline = time.monotonic() + bound_s
    if not _wait(ended, bound_s):
        note = notes.read(files.supervisor, notes.Supervisor)
        if note is not None:
            _signal(note.identity, signal.SIGKILL)
        if not _wait(lambda: not lock.is_held(files.lock), _KILL_S):
            raise TargetError(f"the run's supervisor{_pid(files)} does not end; end it and try again")
    # The server of a supervisor that was killed ends by itself, but takes its time for requests in flight.
    mark = str(files.ports)
    if not _wait(lambda: not identity.marked(notes.MARK, mark), deadline - time.monotonic()):
        identity.kill_marked(notes.MARK, mark, _KILL_S)


def _signal(supervisor: identity.Identity, number: int) -> None:
    try:
        supervisor.signal(number)
    except psutil.AccessDenied as error:
        raise TargetError(f"the run's supervisor (pid {supervisor.pid}) is another user's, who can end it") from error


def _wait(is_so: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _drain_s(record: Record) -> float:
    """The longest that an orderly end takes."""
    return flags.from_keywords(**parameters.server_config(record.spec)).shutdown_timeout + _GRACE_S


def _pid(files: notes.Files) -> str:
    note = notes.read(files.supervisor, notes.Supervisor)
    return "" if note is None else f" (pid {note.identity.pid})"


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
