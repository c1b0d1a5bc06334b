"""A run: a model that is served, on a target, found by its key from any process.

Knows the target by its protocol only. What it is, is sealed (sealing.py); what comes after reads it from the store.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from modelserve import registry
from modelserve.client import Client
from modelserve.deploy import sealing, states, waiting
from modelserve.deploy.change import Change
from modelserve.deploy.entity import Entity
from modelserve.deploy.record import Record, transition
from modelserve.deploy.reference import parse_function_string
from modelserve.deploy.target import ClusterTarget, LogsAsked, Progress, Reach, Target, Usage
from modelserve.errors import (
    ConfigError,
    EntityNotFound,
    InvokeError,
    ModelServeError,
    TargetError,
    TargetRefused,
    TargetUnreachable,
)

if TYPE_CHECKING:
    import httpx2

    from modelserve.deploy.store import Store

log = logging.getLogger("modelserve")

WAIT_S = 600.0
"""A large model is downloaded in minutes; DigitalHub's 300 s were too few."""
POLL_S = 0.2


class Run(Entity):
    """One run. As a context manager it is waited for, and stopped at the end."""

    def __init__(self, record: Record, store: Store, target: Target | None = None) -> None:
        """target: what serves it, where there is one already; several runs may share one, and its connections."""
        super().__init__(record, store)
        self._known_target = target

    @property
    def state(self) -> str:
        return self._record.state

    @property
    def alive(self) -> bool:
        """Whether something works for it, as far as this object has seen: a cluster goes on trying after an error."""
        return self.state in states.ALIVE or (self.state == "ERROR" and bool(self._record.status.get("objects")))

    @property
    def url(self) -> str | None:
        """http://host:port of the service, None while there is none."""
        service = self._record.status.get("service")
        return f"http://{service['url']}" if service else None

    def refresh(self) -> Run:
        """As it is now: the store is read, and the target asked where the two may differ."""
        super().refresh()
        self._record = self._target.observe(self._record)
        return self

    def wait(self, timeout: float = WAIT_S, poll: float = POLL_S, log_info: bool = True) -> Run:
        """Until it is RUNNING, showing how far the load is. Raises RunFailed with the reason when that will not
        happen (ERROR, STOPPED, deleted), WaitTimeout after `timeout` seconds."""
        waiting.wait(self, timeout, poll, log_info)
        return self

    async def await_ready(self, timeout: float = WAIT_S, poll: float = POLL_S) -> Run:  # noqa: ASYNC109  as wait()
        """`wait` for asyncio."""
        return await asyncio.to_thread(self.wait, timeout, poll, False)

    @property
    def progress(self) -> Progress:
        """How far the load is."""
        return self._target.progress(self._record)

    @property
    def usage(self) -> Usage:
        """CPU, memory and requests per second, as last seen."""
        return self._target.usage(self._record)

    @cached_property
    def _target(self) -> Target:
        return self._known_target or _shared(self._record, self._store, {})

    @property
    def client(self) -> Client:
        """A client of the service; a port of this machine is forwarded where the service of a cluster cannot be reached
        otherwise. Raises InvokeError while there is no service, TargetError."""
        if self.url is None:
            self.refresh()
        if self.url is None:
            raise InvokeError(self._no_service())
        if self._client is None or self._asks != self.url:
            self._close()
            self._asks = self.url
            self._reach = self._target.reach(self._record)
            self._client = Client(self._reach.url, self._record.spec["model_name"])
        return self._client

    _client: Client | None = None
    _reach: Reach | None = None
    _asks: str | None = None
    """The run's url that the client was made for."""

    def invoke(self, **request: Any) -> httpx2.Response:
        """One request to the service, V2's infer of the model unless it says otherwise: see Client.invoke."""
        response: httpx2.Response = self._asked(lambda client: client.invoke(**request))
        return response

    def predict(self, inputs: Any, **parameters: Any) -> Any:
        """The model's answers as Python values: see Client.predict."""
        return self._asked(lambda client: client.predict(inputs, **parameters))

    async def ainvoke(self, **request: Any) -> httpx2.Response:
        return await asyncio.to_thread(lambda: self.invoke(**request))

    async def apredict(self, inputs: Any, **parameters: Any) -> Any:
        return await asyncio.to_thread(lambda: self.predict(inputs, **parameters))

    def metrics(self) -> dict[str, float]:
        """Every sample of the service's /metrics, by name and labels."""
        found: dict[str, float] = self._asked(lambda client: client.metrics())
        return found

    def logs(
        self,
        tail: int | None = None,
        follow: bool = False,
        since: float | None = None,
        container: str = "",
        previous: bool = False,
    ) -> Any:
        """The server's log as one text, its last `tail` lines where given; with `follow` an iterator over its lines,
        which ends with the run.

        In a cluster these are the logs of all pods; `since`: of the last so many seconds; `container`: another one than
        the server's; `previous`: of the one before, which has crashed. Raises ConfigError, TargetError.
        """
        if tail is not None and (isinstance(tail, bool) or not isinstance(tail, int) or tail < 0):
            raise ConfigError(f"tail is {tail!r}; it must be a whole number of lines, 0 or more")
        if since is not None and (isinstance(since, bool) or not isinstance(since, int | float) or since <= 0):
            raise ConfigError(f"since is {since!r}; it must be a number of seconds, more than 0")
        lines = self._target.logs(self._record, LogsAsked(tail, since, container, previous), follow=follow)
        return lines if follow else "\n".join(lines)

    def manifest(self) -> list[dict[str, Any]]:
        """What was applied for it in its cluster, without Secrets. Raises TargetError, ConfigError on this machine."""
        return self._in_a_cluster("a manifest").manifests(self.refresh()._record)

    def update(
        self,
        *,
        wait: bool = False,
        timeout: float = WAIT_S,
        log_info: bool = True,
        dry_run: bool = False,
        force: bool = False,
        **parameters: Any,
    ) -> Any:
        """Other parameters, in place: a rolling update, in which the former pods answer until the new ones do; itself.

        Of a run that is stopped, from its resume on. A parameter that is None is taken out. dry_run: a list of
        manifests, as the cluster would have them, and nothing is changed. force: fields that others have set
        meanwhile, too. Raises ConfigError, TargetError.
        """
        target = self._in_a_cluster("an update")
        self.refresh()
        function = self._store.get("function", self.project, parse_function_string(self.spec.function).id)
        spec = sealing.changed(function, self._record, parameters, self._store)
        if dry_run:
            return target.check(self._record.replace(spec=spec), force=force)
        target.update(self._record, spec, force=force)
        super().refresh()
        return self.wait(timeout=timeout, log_info=log_info) if wait and self.state != "STOPPED" else self

    def scale(self, replicas: int, *, wait: bool = False, timeout: float = WAIT_S, log_info: bool = True) -> Run:
        """So many pods. Raises ConfigError, TargetError."""
        target = self._in_a_cluster("a scale")
        if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
            raise ConfigError(f"replicas is {replicas!r}; it must be a whole number of at least 1; stop() ends all")
        target.scale(self.refresh()._record, replicas)
        super().refresh()
        return self.wait(timeout=timeout, log_info=log_info) if wait else self

    def _read(self) -> None:
        """As it is in the store, and on this machine as it is; a cluster is not asked where that changes nothing."""
        if isinstance(self._target, ClusterTarget):
            super().refresh()
        else:
            self.refresh()

    def _in_a_cluster(self, what: str) -> ClusterTarget:
        if not isinstance(self._target, ClusterTarget):
            raise ConfigError(f"{what} is for runs in a cluster; this one is on the target {self.spec.target}")
        return self._target

    def stop(self, timeout: float | None = None) -> Run:
        """End it: requests in flight are answered first. Legal in every state."""
        self._read()
        self._record = self._store.change("run", self.project, self.id, _stopping)
        if self.state != "STOP":
            return self
        try:
            self._target.stop(self._record, timeout)
        except TargetRefused as error:  # a cluster that does not let us: it serves, and may be stopped again
            self._fail(f"it could not be stopped: {error.message}")
            raise
        self._record = self._store.get("run", self.project, self.id)
        self._close()
        return self

    def resume(self, wait: bool = False, timeout: float = WAIT_S, log_info: bool = True) -> Run:
        """Start it again after STOPPED or ERROR, on the ports that it had. Raises IllegalTransition, TargetError."""
        self.refresh()
        states.check(self.state, "RESUME")  # type: ignore[arg-type]  # as in `move`
        self._check(force=True)
        self._move("RESUME")
        self._start()
        return self.wait(timeout=timeout, log_info=log_info) if wait else self

    def delete(self, forget: bool = False) -> None:
        """Stop it and remove all that is kept of it. Legal in every state.

        forget: where its cluster cannot be asked any more, only what this store keeps. Raises TargetError.
        """
        try:
            self._read()
            self._move("DELETING")
            self._target.delete(self._record)
        except (TargetError, ConfigError) as error:
            if not forget:
                raise
            log.warning(
                "the run %s is forgotten; what there is of it elsewhere stays there: %s", self.id, error.message
            )
        self._store.delete("run", self.project, self.id)
        self._record = transition(self._record, "DELETED")
        self._close()

    def __enter__(self) -> Run:
        try:
            return self.wait()
        except BaseException:  # Ctrl-C, too: nobody else would stop it
            if self.alive:
                self.stop()
            raise

    def __exit__(self, *error: object) -> None:
        with suppress(EntityNotFound):  # deleted within the block
            self.stop()

    def _check(self, force: bool = False) -> None:
        """Whether its cluster would take it. Raises TargetError, ConfigError."""
        if isinstance(self._target, ClusterTarget):
            self._target.check(self._record, force=force)

    def _start(self) -> None:
        """From READY or RESUME on it is the target's."""
        try:
            self._target.start(self._record)
            if isinstance(self._target, ClusterTarget):  # all that it does for a start is done by now
                super().refresh()
        except ModelServeError as error:
            self._fail(error.message)
            raise
        except OSError as error:
            message = f"the run could not be started: {error}"
            self._fail(message)
            raise TargetError(message) from error
        except BaseException as error:
            self._fail(f"it could not be started: {error!r}")
            raise

    def _fail(self, message: str) -> None:
        """ERROR, unless others have stopped or removed it meanwhile."""
        with suppress(EntityNotFound):
            self._record = self._store.change("run", self.project, self.id, Change("ERROR", message).of)

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._reach is not None:
            self._reach.close()
            self._reach = None

    def _move(self, state: states.State, message: str = "") -> None:
        self._record = move(self._store, self._record, state, message)

    def _asked(self, ask: Any) -> Any:
        """Ask the service; one that has moved since then, to another port or pod, is looked up once."""
        client, asked = self.client, self._asks
        try:
            return ask(client)
        except InvokeError as error:
            if error.status:
                raise
            self.refresh()
            if self.state != "RUNNING":
                raise InvokeError(self._no_service()) from error
            if error.timed_out or (self.url == asked and not isinstance(self._target, ClusterTarget)):
                raise  # what takes long would take as long again
        self._close()
        try:
            return ask(self.client)
        except InvokeError as error:
            if self._reach is not None and (why := self._reach.why()) is not None:
                raise why from error
            raise

    def _no_service(self) -> str:
        said = self._record.status.get("message")
        later = "" if self.state in states.ENDED else " and has no service yet; wait until it is RUNNING"
        return f"the run is {self.state}{later}{': ' + said if said else ''}"

    def _facts(self) -> dict[str, Any]:
        function = self._record.spec["function"].rpartition("/")[2].partition(":")[0]
        message = self._record.status.get("message")
        return {"function": function, "state": self.state, "url": self.url, "message": message, "id": self.id}


def observed(records: list[Record], store: Store, state: str | None = None) -> list[Run]:
    """The runs as they are now, in order, those in `state` only where one is given. Raises ConfigError for a
    state that is none."""
    if state is not None and (not isinstance(state, str) or state.upper() not in states.NEXT):
        raise ConfigError(f"state is {state!r}; it must be one of {', '.join(states.NEXT)}")
    targets: dict[str, Target] = {}
    found = [Run(record, store, _shared(record, store, targets)) for record in records]
    silent: set[str] = set()
    gone: set[str] = set()
    for run in found:
        where = str((run.status.cluster or {}).get("server", ""))
        if not run.alive or where in silent:
            continue
        try:
            run._record = run._target.observe(run._record)
        except TargetUnreachable as error:
            silent.add(where)
            log.warning("%s; what is said of its runs is what was seen last", error.message)
        except EntityNotFound:  # removed by others just now
            gone.add(run.id)
        except (TargetError, ConfigError) as error:
            log.warning("the run %s: %s; what is said of it is what was seen last", run.id, error.message)
    return [run for run in found if run.id not in gone and (state is None or run.state == state.upper())]


def _shared(record: Record, store: Store, targets: dict[str, Target]) -> Target:
    name = record.spec["target"]
    if name not in targets:
        targets[name] = registry.load(registry.TARGETS[name])(store)
    return targets[name]


def _stopping(record: Record) -> Record:
    """It may have ended, or been stopped by another, since it was looked at."""
    return record if record.state in ("STOPPED", "DELETING") else transition(record, "STOP")


def move(store: Store, record: Record, state: states.State, message: str = "") -> Record:
    """The record in another state, in the store too. Raises IllegalTransition."""

    def moved(now_: Record) -> Record:
        states.check(now_.state, state)  # type: ignore[arg-type]  # what the store holds was checked when it was written
        return transition(now_, state, message)

    return store.change("run", record.project, record.id, moved)
