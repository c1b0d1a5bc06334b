"""A function names a model and how to serve it; `run(action="serve", …)` makes a task and a run of it.

Its spec never changes: a new function of the same name is a new version.
"""

from __future__ import annotations

import logging
from typing import Any

from modelserve import registry
from modelserve.deploy import parameters, paths, sealing
from modelserve.deploy import run as runs
from modelserve.deploy import task as tasks
from modelserve.deploy.entity import Entity
from modelserve.deploy.kinds import check_kind
from modelserve.deploy.manifests import source
from modelserve.deploy.record import Record, lasting_id, new_id, now
from modelserve.deploy.reference import LATEST, check_name, function_string
from modelserve.deploy.run import Run
from modelserve.deploy.target import ClusterTarget
from modelserve.deploy.task import Task
from modelserve.errors import ConfigError, EntityExists, EntityNotFound
from modelserve.urls import shown

log = logging.getLogger("modelserve")

_SPEC = ("path", "model_name", "image", "allow_pickle")


class Function(Entity):
    """One version of a function."""

    @property
    def reference(self) -> str:
        """How tasks and runs name it: kind://project/name:id."""
        return function_string(self.kind, self.project, self.name, self.id)

    def run(
        self,
        action: str,
        *,
        wait: bool = False,
        log_info: bool = True,
        timeout: float = runs.WAIT_S,
        target: str | None = None,
        local_execution: bool | None = None,
        **parameters: Any,
    ) -> Run:
        """Serve the model: a Run, which is alive when this returns, and answers when it is RUNNING.

        wait: until then, at most `timeout` seconds. target: "local" or "kubernetes"; local_execution=False is the
        latter; MODELSERVE_TARGET decides where neither is given, else this machine. parameters: docs/sdk.md has the
        table; they win over the task's, and those over the profile's. Raises ConfigError for a parameter that is
        unknown or wrong, and TargetError where a cluster refuses it or is not there, before anything is stored;
        RunFailed and WaitTimeout when it was waited for.
        """
        check_action(action)
        where = sealing.choose_target(target, local_execution)
        given = parameters_of(parameters)
        task = self._task_for(action)
        spec = sealing.sealed(self._record, task, given, where, self._store)
        run = Run(sealing.new_record(self._record, task, spec), self._store)
        run._check()
        if not task.revision and (stored := self._stored(task)).id != task.id:
            run = Run(sealing.new_record(self._record, stored, spec), self._store)
        run._record = self._store.create(run._record)
        run._start()
        if wait:
            run.wait(timeout=timeout, log_info=log_info)
        return run

    def manifest(
        self,
        action: str,
        *,
        target: str = "kubernetes",
        with_secrets: bool = False,
        dry_run: bool = False,
        **parameters: Any,
    ) -> list[dict[str, Any]]:
        """What a run with these parameters would be in a cluster: manifests in the order in which they are applied.

        No cluster is asked, unless by dry_run, and nothing is stored. The same function gives the same names each time,
        so that applying it anew changes what is there. with_secrets: the Secret with the values of the project's
        secrets too, which is left out otherwise. dry_run: as the cluster would have them, if it takes them, with all
        that it fills in and without Secrets; it changes nothing. Raises ConfigError, and with dry_run TargetError.
        """
        check_action(action)
        if not isinstance(target, str) or target.lower() != "kubernetes":
            raise ConfigError(f"target is {target!r}; it must be kubernetes, the one that has manifests")
        task = self._task_for(action)
        spec = sealing.sealed(self._record, task, parameters_of(parameters), "kubernetes", self._store)
        record = sealing.new_record(self._record, task, spec, id=lasting_id(self.project, self.name))
        if dry_run:
            checks: ClusterTarget = registry.load(registry.TARGETS["kubernetes"])(self._store)
            return checks.check(record)
        found = source.manifests(record, self._store)
        if with_secrets:
            return found
        for secret in (one for one in found if one["kind"] == "Secret"):
            keys = ", ".join(secret["data"])
            log.warning("the Secret %s (%s) is left out, since it has values in it", secret["metadata"]["name"], keys)
        return [one for one in found if one["kind"] != "Secret"]

    def new_task(self, action: str, **spec: Any) -> Task:
        """The task for this action with these parameters. Raises EntityExists when there is one, ConfigError."""
        check_action(action)
        return Task(self._store.create(self._new_task(action, spec)), self._store)

    def get_task(self, action: str) -> Task:
        """Raises EntityNotFound when there is none for this action yet."""
        check_action(action)
        for record in self._store.list("task", self.project, function=self.reference, kind=f"{self.kind}+{action}"):
            return Task(record, self._store)
        raise EntityNotFound(f"the function {self.name} has no task {action!r}; run() makes one, new_task() too")

    def set_task(self, action: str, **spec: Any) -> Task:
        """The task for this action with just these parameters, whether there was one or not."""
        try:
            return self.new_task(action, **spec)
        except EntityExists:
            task = self.get_task(action)
            gone: dict[str, Any] = dict.fromkeys(name for name in task.spec if name != "function")
            return task.update(**(gone | spec))

    def update_task(self, action: str, **spec: Any) -> Task:
        """Set these parameters of the task; None takes one out. Raises EntityNotFound."""
        return self.get_task(action).update(**spec)

    def delete_task(self, action: str, cascade: bool = True) -> None:
        """Remove the task, and with `cascade` its runs. Raises EntityNotFound."""
        task = self.get_task(action)
        if cascade:
            reference = sealing.task_reference(task._record)
            for run in self.list_runs():
                if run.spec.task == reference:
                    run.delete()
        task.delete()

    def list_tasks(self) -> list[Task]:
        return [Task(record, self._store) for record in self._store.list("task", self.project, function=self.reference)]

    def list_runs(self, *, state: str | None = None, action: str | None = None) -> list[Run]:
        """Newest first."""
        kind = f"{self.kind}+{check_action(action)}:run" if action else None
        found = self._store.list("run", self.project, function=self.reference, kind=kind)
        return runs.observed(found, self._store, state)

    def get_run(self, key_or_id: str) -> Run:
        """Raises EntityNotFound for a run that is not of this function."""
        id = key_or_id.rpartition("/")[2]
        run = Run(self._store.get("run", self.project, id), self._store).refresh()
        if run.spec.function != self.reference:
            raise EntityNotFound(f"the run {id} is not one of the function {self.name}, but of {run.spec.function}")
        return run

    def delete(self, cascade: bool = True) -> None:
        """Remove this version, with its tasks, and with `cascade` its runs. Raises ConfigError without it while there
        are runs that are alive."""
        for run in self.list_runs():
            if cascade:
                run.delete()
            elif run.alive:
                raise ConfigError(f"the function {self.name} has the run {run.id}, which is {run.state}; stop it first")
        for task in self.list_tasks():
            task.delete()
        self._store.delete("function", self.project, self.id)

    def _task_for(self, action: str) -> Record:
        """The task, or one that is not stored yet, since the run may be refused."""
        try:
            return self.get_task(action)._record
        except EntityNotFound:
            return self._new_task(action, {})

    def _stored(self, task: Record) -> Record:
        try:
            return self._store.create(task)
        except EntityExists:  # another process made it just now
            return self.get_task(task.kind.rpartition("+")[2])._record

    def _new_task(self, action: str, spec: dict[str, Any]) -> Record:
        return tasks.new_record(self.project, self.kind, action, self.reference, parameters.read(spec, on="task"))

    def _documents(self) -> list[dict[str, Any]]:
        return [self.to_dict(), *(task.to_dict() for task in self.list_tasks())]

    def _facts(self) -> dict[str, Any]:
        return {"name": self.name, "kind": self.kind, "path": shown(self.spec.path), "id": self.id}


def parameters_of(given: dict[str, Any]) -> dict[str, Any]:
    return parameters.read(given)


def check_action(action: object) -> str:
    """Raises ConfigError."""
    if action not in parameters.ACTIONS:
        raise ConfigError(f"action is {action!r}; it must be one of {', '.join(parameters.ACTIONS)}")
    return str(action)


def check_id(name: str, id: str) -> str:
    """Raises ConfigError for what cannot be a version's."""
    if check_name(name, id) == LATEST:
        raise ConfigError(f"{name} is {id!r}, which stands for the newest version; give another")
    return id


def new_record(
    project: str, name: str, kind: str, uuid: str | None, description: str | None, labels: list[str] | None, **spec: Any
) -> Record:
    """Raises ConfigError for a kind, name, id or spec that is none."""
    id, time = check_id("uuid", uuid or new_id()), now()
    return Record(
        project=project,
        type="function",
        kind=kind,
        name=check_name("name", name),
        id=id,
        metadata={
            "created": time,
            "updated": time,
            "version": id,
            "description": description,
            "labels": labels or [],
        },
        spec=read_spec(kind, spec),
        status={"state": "CREATED"},
    )


def read_spec(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A function's spec as it is kept. Raises ConfigError for a kind or a spec that is none."""
    check_kind(kind)
    for key in spec:
        if key not in _SPEC:
            raise ConfigError(
                f"unknown parameter {key} of a function; it has {', '.join(_SPEC)}. What a server is started with is "
                "given to run()"
            )
    path = spec.get("path")
    if not isinstance(path, str) or not path:
        raise ConfigError(f"path is {path!r}; it must say where the model is: hf://org/name, a directory, s3://…")
    kept = parameters.read({key: value for key, value in spec.items() if key != "path"})
    return {"path": paths.absolute(path), "model_name": "model", **kept}
