"""A run: a model that is served, on a target, found by its key from any process.

Knows the target by its protocol only. `sealed` merges and checks what the run is; what comes after reads it from the
store.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from modelserve import registry
from modelserve.client import Client
from modelserve.deploy import command, parameters, paths, profiles, states, waiting
from modelserve.deploy.change import Change
from modelserve.deploy.cluster_shapes import SECRET
from modelserve.deploy.entity import Entity
from modelserve.deploy.record import Record, new_id, now, transition
from modelserve.deploy.reference import Key, function_string, task_string
from modelserve.deploy.target import Progress, Target, Usage
from modelserve.errors import ConfigError, EntityNotFound, InvokeError, ModelServeError, TargetError

if TYPE_CHECKING:
    import httpx2

    from modelserve.deploy.store import Store

log = logging.getLogger("modelserve")

WAIT_S = 600.0
"""A large model is downloaded in minutes; DigitalHub's 300 s were too few."""
POLL_S = 0.2


class Run(Entity):
    """One run. As a context manager it is waited for, and stopped at the end."""

    @property
    def state(self) -> str:
        return self._record.state

    @property
    def alive(self) -> bool:
        """Whether something works for it, as far as this object has seen."""
        return self.state in states.ALIVE

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
        target: Target = registry.load(registry.TARGETS[self._record.spec["target"]])(self._store)
        return target

    @property
    def client(self) -> Client:
        """A client of the service. Raises InvokeError while there is none."""
        if self.url is None:
            self.refresh()
        if self.url is None:
            raise InvokeError(self._no_service())
        if self._client is None or self._client.url != self.url:
            self._close()
            self._client = Client(self.url, self._record.spec["model_name"])
        return self._client

    _client: Client | None = None

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

    def logs(self, tail: int | None = None, follow: bool = False) -> Any:
        """The server's log as one text, its last `tail` lines where given; with `follow` an iterator over its lines,
        which ends with the run. Raises ConfigError, TargetError."""
        if tail is not None and (isinstance(tail, bool) or not isinstance(tail, int) or tail < 0):
            raise ConfigError(f"tail is {tail!r}; it must be a whole number of lines, 0 or more")
        lines = self._target.logs(self._record, tail=tail, follow=follow)
        return lines if follow else "\n".join(lines)

    def stop(self, timeout: float | None = None) -> Run:
        """End it: requests in flight are answered first. Legal in every state."""
        self.refresh()
        self._record = self._store.change("run", self.project, self.id, _stopping)
        if self.state != "STOP":
            return self
        self._target.stop(self._record, timeout)
        self._record = self._store.get("run", self.project, self.id)
        self._close()
        return self

    def resume(self, wait: bool = False, timeout: float = WAIT_S, log_info: bool = True) -> Run:
        """Start it again after STOPPED or ERROR, on the ports that it had. Raises IllegalTransition, TargetError."""
        self.refresh()
        self._move("RESUME")
        self._start()
        return self.wait(timeout=timeout, log_info=log_info) if wait else self

    def delete(self) -> None:
        """Stop it and remove all that is kept of it. Legal in every state."""
        self.refresh()
        self._move("DELETING")
        self._target.delete(self._record)
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

    def _start(self) -> None:
        """From READY or RESUME on it is the target's."""
        try:
            self._target.start(self._record)
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

    def _move(self, state: states.State, message: str = "") -> None:
        self._record = move(self._store, self._record, state, message)

    def _asked(self, ask: Any) -> Any:
        """Ask the service; one that has moved to another port since then is looked up once."""
        client = self.client
        try:
            return ask(client)
        except InvokeError as error:
            if error.status:
                raise
            self.refresh()
            if self.state != "RUNNING":
                raise InvokeError(self._no_service()) from error
            if self.url == client.url:
                raise
            return ask(self.client)

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
    found = [Run(record, store) for record in records]
    for run in found:
        if run.alive:
            run._record = run._target.observe(run._record)
    return [run for run in found if state is None or run.state == state.upper()]


def _stopping(record: Record) -> Record:
    """It may have ended, or been stopped by another, since it was looked at."""
    return record if record.state in ("STOPPED", "DELETING") else transition(record, "STOP")


def move(store: Store, record: Record, state: states.State, message: str = "") -> Record:
    """The record in another state, in the store too. Raises IllegalTransition."""

    def moved(now_: Record) -> Record:
        states.check(now_.state, state)  # type: ignore[arg-type]  # what the store holds was checked when it was written
        return transition(now_, state, message)

    return store.change("run", record.project, record.id, moved)


def choose_target(target: str | None, local_execution: bool | None) -> str:
    """Raises ConfigError for a target that is none, or that contradicts local_execution."""
    if local_execution is not None and not isinstance(local_execution, bool):
        raise ConfigError(f"local_execution is {local_execution!r}; it must be True or False")
    said = target or os.environ.get("MODELSERVE_TARGET") or None if local_execution is None else target
    meant = {True: "local", False: "kubernetes", None: "local"}[local_execution]
    chosen = said.lower() if isinstance(said, str) else meant if said is None else said
    if not isinstance(chosen, str) or chosen not in registry.TARGETS:
        later = "; Kubernetes is a target of a later version" if chosen == "kubernetes" else ""
        raise ConfigError(f"target is {chosen!r}; it must be one of {', '.join(registry.TARGETS)}{later}")
    if local_execution is not None and chosen != meant:
        raise ConfigError(f"target is {chosen!r} and local_execution is {local_execution}; give only one of them")
    return chosen


def task_reference(task: Record) -> str:
    """How a run names its task."""
    return task_string(task.kind, task.project, task.id)


def sealed(function: Record, task: Record, given: dict[str, Any], target: str, store: Store) -> dict[str, Any]:
    """The spec of a run: merged and checked. Raises ConfigError; stores nothing."""
    own = {name: value for name, value in task.spec.items() if name != "function"}
    profile = given.get("profile", own.get("profile"))
    spec = parameters.merge(given, own, profiles.load(profile) if profile else {})
    spec = {**function.spec, **spec}
    if "path" in given:
        spec["path"] = paths.absolute(given["path"])
        paths.check_override(spec["path"], function.spec["path"])
    command.server_args(function.kind, spec)
    for name in spec.get("secrets", ()):
        if not name.startswith(SECRET):
            store.get_secret(function.project, name)  # that there is one
        elif target == "local":
            raise ConfigError(f"secrets has {name!r}, a Secret of a cluster; on this machine give one of the project")
    if target == "local":
        _check_here(spec)
    if spec.get("return_probabilities") and spec.get("huggingface_task") in parameters.NO_CLASSES:
        log.warning("return_probabilities has no effect: %s has no classes", spec["huggingface_task"])
    if idle := command.without_effect(function.kind, spec):
        log.warning("%s: no effect on a model of %s", ", ".join(idle), function.kind)
    return {"action": "serve", "target": target, **spec}


def new_record(function: Record, task: Record, spec: dict[str, Any], id: str = "") -> Record:
    """The run, READY. spec: as `sealed` gives it. id: a new one where none is given."""
    id, time = id or new_id(), now()
    reference = function_string(function.kind, function.project, function.name, function.id)
    record = Record(
        project=function.project,
        type="run",
        kind=f"{task.kind}:run",
        name=id,
        id=id,
        metadata={"created": time, "updated": time},
        spec={"function": reference, "task": task_reference(task), **spec},
    )
    for state in ("CREATED", "BUILT", "READY"):
        record = transition(record, state)
    return record


def _check_here(spec: dict[str, Any]) -> None:
    """What must be so on this machine. Raises ConfigError."""
    paths.check_here(spec["path"])
    for volume in spec.get("volumes", ()):
        if volume["volume_type"] == "host_path":
            try:
                paths.check_here(volume["spec"]["path"])
            except ConfigError as error:
                raise ConfigError(f"volumes, {volume['name']}: {error.message}") from error
    if kept := parameters.kept_only(spec):
        log.warning("%s: kept for a cluster; no effect on this machine", ", ".join(kept))


def key_of(record: Record) -> Key:
    return Key(record.project, "run", record.kind, "", record.id)
