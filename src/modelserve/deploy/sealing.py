"""A run's spec: function, task, profile and what was given, merged and checked; and the record of a run made of it.

Stores nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelserve import registry
from modelserve.deploy import command, parameters, paths, profiles
from modelserve.deploy.cluster_shapes import SECRET
from modelserve.deploy.record import Record, new_id, now, transition
from modelserve.deploy.reference import function_string, task_string
from modelserve.errors import ConfigError

if TYPE_CHECKING:
    from modelserve.deploy.store import Store

log = logging.getLogger("modelserve")

_OWN = ("function", "task", "action", "target")
"""Of a run's spec: what it was made from, and where it is."""


def choose_target(target: str | None, local_execution: bool | None) -> str:
    """Raises ConfigError for a target that is none, or that contradicts local_execution."""
    if local_execution is not None and not isinstance(local_execution, bool):
        raise ConfigError(f"local_execution is {local_execution!r}; it must be True or False")
    said = target or os.environ.get("MODELSERVE_TARGET") or None if local_execution is None else target
    meant = {True: "local", False: "kubernetes", None: "local"}[local_execution]
    chosen = said.lower() if isinstance(said, str) else meant if said is None else said
    if not isinstance(chosen, str) or chosen not in registry.TARGETS:
        raise ConfigError(f"target is {chosen!r}; it must be one of {', '.join(registry.TARGETS)}")
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
    return {"action": "serve", "target": target, **_checked(function, spec, target, store)}


def changed(function: Record, record: Record, given: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """The spec of a run with other parameters; None takes one out. Raises ConfigError."""
    if given.get("profile") is not None:
        raise ConfigError("a profile belongs to the start of a run; give the parameters themselves")
    read = parameters.read(given)
    gone = {parameters.kept_name(name) for name, value in given.items() if value is None}
    spec = {name: value for name, value in {**record.spec, **read}.items() if name not in (*_OWN, *gone)}
    for name in ("path", "model_name", "image"):
        if name in gone and name in function.spec:
            spec[name] = function.spec[name]
    if "path" in read:
        spec["path"] = paths.absolute(read["path"])
        paths.check_override(spec["path"], function.spec["path"])
    own = {name: record.spec[name] for name in _OWN}
    return own | _checked(function, spec, record.spec["target"], store)


def _checked(function: Record, spec: dict[str, Any], target: str, store: Store) -> dict[str, Any]:
    """The same, where a server and the target take it. Raises ConfigError."""
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
    return spec


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
