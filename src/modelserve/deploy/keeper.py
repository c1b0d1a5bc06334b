"""Keeps the server of one run: starts it, and again after a crash, watches it, reports what becomes of it, ends it.

The main thread decides, on events that threads put into one queue: the server's end, its answers, what the store says,
signals. Knows no HTTP and no database.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import signal
import socket
import time
from types import FrameType
from typing import Any, NamedTuple

import msgspec

from modelserve.deploy import identity, limits, notes, states
from modelserve.deploy.change import NOTHING_SERVES, Change
from modelserve.deploy.health import Health
from modelserve.deploy.lock import Lock
from modelserve.deploy.log_file import LogFile
from modelserve.deploy.meter import Meter
from modelserve.deploy.plan import Plan
from modelserve.deploy.reference import Key
from modelserve.deploy.reporter import Refused, Reporter, Sealed, Unwanted
from modelserve.deploy.restarts import LIMIT, SETTLED_S, Restarts
from modelserve.deploy.server_process import ServerProcess
from modelserve.deploy.watch import Seen, Watch
from modelserve.errors import ModelServeError, TargetError

log = logging.getLogger("modelserve.supervise")

_SEAL_S = 30.0
"""For the store to tell what is to be served."""
_GRACE_S = 5.0
"""Beyond --shutdown_timeout, before a server that does not end is killed; one that never answered has no more."""
_REPORT_S = 10.0
"""For the last report, which otherwise is left in a note for whoever looks at the run next."""
_FORMER_S = 5.0
"""For the server of a supervisor that was killed to end by itself."""
_LINES = 5
"""Of the log, in a message; all of it is in the file."""


class Signalled(NamedTuple):
    name: str


class Ended(NamedTuple):
    server: ServerProcess


Event = Signalled | Ended | Seen | Sealed | Refused | Unwanted


class _Over(Exception):
    """The run is to end, and no server is there to be ended first."""


class Keeper:
    """Of one run, until it is stopped or fails."""

    def __init__(self, key: Key, files: notes.Files, lock: Lock, output: LogFile) -> None:
        self._files = files
        self._lock = lock
        self._output = output
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._reporter = Reporter(key, self._events.put)
        self._restarts = Restarts()
        self._meter = Meter()
        self._cgroup: limits.Cgroup | None = None
        self._can_bound = True
        self._note = notes.Supervisor(identity=identity.Identity.own())
        self._end: Signalled | Unwanted | None = None
        """Why the run is to end, once it is."""
        self._running = False
        """The last that was reported."""
        self._was_ready = False
        """Some server of the run has answered."""

    def run(self) -> Change | None:
        """What the run has become at its end; None when others have decided that."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._write_note()
        self._reporter.start()
        try:
            end: Change | None = self._keep(self._plan())
        except _Over:
            end = self._as_asked()
        except ModelServeError as error:
            end = Change("ERROR", error.message)
        except Exception:
            log.exception("the supervisor failed")
            end = Change("ERROR", "its supervisor failed; supervisor.log in the run's directory says why")
        self._finish(end)
        return end

    def _plan(self) -> Plan:
        """What is to be served. Raises ModelServeError, _Over."""
        deadline = time.monotonic() + _SEAL_S
        while time.monotonic() < deadline:
            match self._next(deadline):
                case Sealed(record, secrets):
                    return Plan.of(record, secrets, notes.read(self._files.ports, notes.Ports))
                case Refused(message):
                    raise TargetError(message)
            if self._end is not None:
                raise _Over
        raise TargetError(f"the store did not tell within {_SEAL_S:g} s what is to be served; supervisor.log says why")

    def _keep(self, plan: Plan) -> Change | None:
        """Serve until the end."""
        self._report("PENDING", "starting", supervisor=os.getpid(), **notes.here())
        self._end_former()
        if plan.recorded:
            _check_free(plan)
        while True:
            server, healthy_s = self._serve(plan)
            if self._end is not None:
                return self._as_asked()
            if server.said and not self._was_ready:
                return Change("ERROR", server.said)
            log.error("the server (pid %d) %s", server.pid, server.how)
            pause_s = self._restarts.pause_s(healthy_s)
            if pause_s is None:
                return Change("ERROR", _why(server))
            said = f" ({server.said})" if server.said else ""
            count = f"{self._restarts.count} of {LIMIT}"
            self._report("PENDING", f"the server {server.how}{said}; starting it again ({count})", pid=None)
            self._wait(pause_s)
            plan = plan.on(notes.read(self._files.ports, notes.Ports))

    def _serve(self, plan: Plan) -> tuple[ServerProcess, float]:
        """One server, from its start to its end; and for how long it was healthy when it ended."""
        server = ServerProcess(plan, self._files, self._output)
        health = Health(time.monotonic())
        watch = Watch(server, plan.host, self._files, self._meter, self._events.put)
        try:
            kills = self._enclose(server, plan)
            server.on_end(lambda: self._events.put(Ended(server)))
            deadline: float | None = None
            while True:
                event = self._next(deadline)
                now = time.monotonic()
                match event:
                    case Ended(one) if one is server:
                        server.oom_killed = self._cgroup is not None and self._cgroup.oom_kills() > kills
                        return server, health.healthy_s(now)
                    case Seen(one, answer, ports) if one is server and self._end is None:
                        if because := health.see(answer, now):
                            server.kill(because)
                        if health.ready and ports is not None and not self._running:
                            self._was_ready = True
                            self._report("RUNNING", service=plan.service(ports), pid=server.pid)
                        elif self._running and not health.ready:
                            log.warning("the server (pid %d) is not ready: %s", server.pid, answer.reason)
                            self._report("PENDING", f"the model does not answer: {answer.reason}")
                if self._end is not None and deadline is None:
                    server.terminate()
                    deadline = now + _GRACE_S + (plan.shutdown_timeout_s if health.was_ready else 0.0)
                elif deadline is not None and now >= deadline:
                    server.kill("it did not end in time")
                    deadline = now + _GRACE_S
        finally:
            watch.end()
            if not server.has_ended:
                identity.kill_marked(notes.MARK, str(self._files.ports), _GRACE_S)

    def _enclose(self, server: ServerProcess, plan: Plan) -> int:
        """Bound its memory; how often the bound has killed until now."""
        if plan.memory_bytes is None or not self._can_bound:
            return 0
        try:
            self._cgroup = limits.enclose(server.pid, plan.memory_bytes, self._files.cgroup)
            kills = self._cgroup.oom_kills()
        except OSError as error:
            log.warning("the server's memory has no limit, since no cgroup can be made for it here: %s", error)
            self._can_bound = False
            return 0
        self._note = msgspec.structs.replace(self._note, cgroup=str(self._cgroup.directory))
        self._write_note()
        return kills

    def _next(self, deadline: float | None) -> Event | None:
        """What happens next, None when nothing does before the deadline."""
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(event, Signalled | Unwanted):
            log.info("ending: %s", event.name if isinstance(event, Signalled) else f"the run is {event.state}")
            if isinstance(event, Signalled) and self._end is None:
                self._report("STOP")
            if isinstance(event, Unwanted) or self._end is None:
                self._end = event
        elif self._lock.is_gone(self._files.lock) and self._end is None:
            log.warning("ending: the run's directory was removed")
            self._end = Unwanted("DELETED")
        return event

    def _wait(self, pause_s: float) -> None:
        """Raises _Over."""
        deadline = time.monotonic() + pause_s
        while self._end is None and time.monotonic() < deadline:
            self._next(deadline)
        if self._end is not None:
            raise _Over

    def _end_former(self) -> None:
        """Of this run no other server is left: not that of a supervisor that was killed."""
        deadline = time.monotonic() + _FORMER_S
        while identity.marked(notes.MARK, str(self._files.ports)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if killed := identity.kill_marked(notes.MARK, str(self._files.ports), _GRACE_S):
            log.warning("processes of a former server of this run had to be killed: %d", killed)

    def _as_asked(self) -> Change | None:
        """What the run becomes when its server has ended as it should."""
        if isinstance(self._end, Unwanted) and self._end.state != "STOP":
            return None
        return Change("STOPPED")

    def _report(self, state: states.State, message: str = "", **facts: Any) -> None:
        self._running = state == "RUNNING"
        self._reporter.report(Change(state, message, facts))

    def _finish(self, end: Change | None) -> None:
        """Nothing serves any more: say so, and leave nothing behind."""
        self._files.live.unlink(missing_ok=True)
        if self._cgroup is not None:
            limits.remove(self._cgroup.directory)
        if end is not None:
            log.info("the run is %s%s", end.state, f": {end.message}" if end.message else "")
            self._note = msgspec.structs.replace(self._note, state=end.state, message=end.message, cgroup="")
            self._write_note()
            self._reporter.report(end._replace(facts=NOTHING_SERVES))
            if not self._reporter.flush(_REPORT_S):
                log.error(
                    "the store does not take it; whoever looks at the run next finds it in %s", self._files.supervisor
                )
        elif self._end is not None and self._end in (Unwanted("DELETING"), Unwanted("DELETED")):
            shutil.rmtree(self._files.directory, ignore_errors=True)  # whoever deletes it is at this, too

    def _write_note(self) -> None:
        try:
            notes.write(self._files.supervisor, self._note)
        except OSError as error:
            log.warning("%s could not be written: %s", self._files.supervisor, error)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._events.put(Signalled(signal.Signals(number).name))


def _check_free(plan: Plan) -> None:
    """Raises TargetError when a port that the run had is another's now."""
    for port in filter(None, (plan.http_port, plan.grpc_port)):
        with socket.socket(socket.AF_INET6 if ":" in plan.host else socket.AF_INET) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((plan.host, port))
            except OSError as error:
                raise TargetError(
                    f"port {port}, which the run had before, cannot be had again: {error.strerror}; "
                    "end what has taken it, or make a new run"
                ) from error


def _why(server: ServerProcess) -> str:
    """Of a server that has crashed too often."""
    said = f": {server.said}" if server.said else ""
    lines = "" if said else "; its last lines:\n" + "\n".join(server.last_lines(_LINES))
    return (
        f"the server {server.how}, after {LIMIT} restarts without {SETTLED_S:g} s of health in between{said or lines}"
    )
