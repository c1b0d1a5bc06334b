"""Makes, finds, lists and deletes entities: what `import modelserve` offers, and a Project under its own name.

One store for each URL and process. Knows no target.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from modelserve import registry
from modelserve.deploy import documents, parameters, sealing
from modelserve.deploy import function as functions
from modelserve.deploy import project as projects
from modelserve.deploy import run as runs
from modelserve.deploy.function import Function
from modelserve.deploy.home import store_url
from modelserve.deploy.record import Record, lasting_id, new_id, now
from modelserve.deploy.reference import (
    SCHEME,
    Key,
    Type,
    check_name,
    function_string,
    parse_function_string,
    parse_key,
)
from modelserve.deploy.run import Run
from modelserve.deploy.store import Store
from modelserve.deploy.target import ClusterTarget
from modelserve.deploy.task import Task
from modelserve.errors import ConfigError, EntityExists, EntityNotFound


def store() -> Store:
    """The store that the environment names now."""
    return _store(store_url())


@lru_cache(maxsize=8)
def _store(url: str) -> Store:
    return Store(url)


def new_project(name: str, description: str | None = None, labels: list[str] | None = None) -> projects.Project:
    """Raises EntityExists, ConfigError for a name that is none."""
    record = projects.new_record(check_name("name", name), description, labels)
    return projects.Project(store().create(record), store())


def get_project(name: str) -> projects.Project:
    """Raises EntityNotFound."""
    kept = store()
    return projects.Project(kept.get("project", name, name), kept)


def get_or_create_project(
    name: str, description: str | None = None, labels: list[str] | None = None
) -> projects.Project:
    try:
        return get_project(name)
    except EntityNotFound:
        try:
            return new_project(name, description, labels)
        except EntityExists:  # another process made it just now
            return get_project(name)


def list_projects() -> list[projects.Project]:
    """Newest first."""
    kept = store()
    return [projects.Project(record, kept) for record in kept.list("project")]


def delete_project(name: str, cascade: bool = True) -> None:
    """Remove it; with `cascade` its runs are stopped and all that it holds goes, its secrets too. Raises
    EntityNotFound, and ConfigError without `cascade` while it holds something."""
    project = get_project(name)
    kept = store()
    held = [*kept.list("function", name), *kept.list("run", name), *kept.list("task", name)]
    if held and not cascade:
        raise ConfigError(
            f"the project {name} has {len(held)} functions, tasks and runs; delete them first, or cascade"
        )
    for record in held:
        if record.type == "run":
            Run(record, kept).delete()
    for record in held:
        kept.delete(record.type, name, record.id)
    for secret in kept.list_secrets(name):
        kept.delete_secret(name, secret)
    kept.delete("project", project.name, project.name)


def new_function(
    project: str,
    name: str,
    kind: str,
    uuid: str | None = None,
    description: str | None = None,
    labels: list[str] | None = None,
    **spec: Any,
) -> Function:
    """A new version where there is a function of that name. spec: path, model_name, image. The project is made where
    there is none. Raises ConfigError."""
    record = functions.new_record(check_name("project", project), name, kind, uuid, description, labels, **spec)
    get_or_create_project(project)
    kept = store()
    return Function(kept.create(record), kept)


def describe_function(project: str, name: str, kind: str, **spec: Any) -> Function:
    """One that is in no store, and the same each time: its manifests can be had, and it cannot be run. Raises
    ConfigError."""
    id = lasting_id(check_name("project", project), f"{name} {kind} {sorted(spec.items())}")
    return Function(functions.new_record(project, name, kind, id, None, None, **spec), store())


def get_function(identifier: str, project: str | None = None, entity_id: str | None = None) -> Function:
    """By its key, or by name within a project: the newest version, or the one of `entity_id`. Raises EntityNotFound."""
    kept = store()
    kind = None
    if identifier.startswith(SCHEME):
        key = _key(identifier, "function")
        project, identifier, entity_id, kind = key.project, key.name, key.id or entity_id, key.kind
    elif project is None:
        raise ConfigError("a function is found by its key, or by its name and project=")
    if entity_id:
        found = Function(kept.get("function", project, entity_id), kept)
    else:
        found = Function(kept.latest("function", project, identifier), kept)
    if found.name != identifier or kind not in (None, found.kind):
        of_kind = f"{kind} " if kind else ""
        raise EntityNotFound(
            f"there is no {of_kind}function {identifier!r} at that place; what is there is {found.key}"
        )
    return found


def get_function_versions(identifier: str, project: str | None = None) -> list[Function]:
    """All versions of that name, newest first."""
    newest = get_function(identifier, project)
    kept = store()
    return [Function(one, kept) for one in kept.list("function", newest.project, name=newest.name)]


def list_functions(
    project: str | None = None,
    *,
    name: str | None = None,
    kind: str | None = None,
    versions: Literal["latest", "all"] = "latest",
) -> list[Function]:
    """Newest first; the newest version of each unless versions="all"."""
    kept = store()
    return [Function(one, kept) for one in kept.list("function", project, name=name, kind=kind, versions=versions)]


def delete_function(
    identifier: str,
    project: str | None = None,
    entity_id: str | None = None,
    delete_all_versions: bool = False,
    cascade: bool = True,
) -> None:
    """By key or id one version; by name only with delete_all_versions=True. Raises EntityNotFound, ConfigError."""
    one = entity_id or (identifier.startswith(SCHEME) and parse_key(identifier).id)
    if not one and not delete_all_versions:
        raise ConfigError(f"{identifier!r} names every version; give entity_id=, or delete_all_versions=True")
    found = [get_function(identifier, project, entity_id)] if one else get_function_versions(identifier, project)
    for function in found:
        function.delete(cascade=cascade)


def get_task(key: str) -> Task:
    """By its key. Raises EntityNotFound."""
    kept, parsed = store(), _key(key, "task")
    return Task(kept.get("task", parsed.project, parsed.id), kept)


def list_tasks(project: str | None = None, *, kind: str | None = None) -> list[Task]:
    kept = store()
    return [Task(one, kept) for one in kept.list("task", project, kind=kind)]


def delete_task(key: str) -> None:
    get_task(key).delete()


def get_run(identifier: str, project: str | None = None) -> Run:
    """By its key, or by its id (or the first characters of one) in a project or in all. Raises EntityNotFound, and
    ConfigError where several begin so."""
    kept = store()
    if identifier.startswith(SCHEME):
        key = _key(identifier, "run")
        return runs.observed([kept.get("run", key.project, key.id)], kept)[0]
    found = [one for one in kept.list("run", project) if one.id.startswith(identifier)] if identifier else []
    if len(found) > 1:
        raise ConfigError(f"{len(found)} runs begin with {identifier!r}; give more of the id")
    if not found:
        raise EntityNotFound(f"there is no run {identifier!r}" + (f" in the project {project}" if project else ""))
    return runs.observed(found, kept)[0]


def list_runs(
    project: str | None = None,
    *,
    state: str | None = None,
    kind: str | None = None,
    function: str | None = None,
    target: str | None = None,
    **place: str,
) -> list[Run]:
    """As they are now, newest first. function: its key or reference string, or a name in the project for all its
    versions. target: only those; with "kubernetes" also those that the cluster knows and the store does not, which it
    knows from then on. place: kubeconfig, context and namespace of that cluster, the environment's where not given.
    """
    kept = store()
    if target is not None:
        target = sealing.choose_target(target, None)
    if place and target != "kubernetes":
        raise ConfigError(f"{', '.join(place)} says which cluster is meant; give target='kubernetes' too")
    if target == "kubernetes":
        clusters: ClusterTarget = registry.load(registry.TARGETS[target])(kept)
        clusters.adopt(parameters.read(place))
    if function is not None and function.startswith(SCHEME):
        function = get_function(function).reference
    if function is None or "://" in function:
        listed = kept.list("run", project, function=function, kind=kind)
    else:
        references = {version.reference for version in get_function_versions(function, project)}
        listed = [one for one in kept.list("run", project, kind=kind) if one.spec["function"] in references]
    if target is not None:
        listed = [one for one in listed if one.spec["target"] == target]
    return runs.observed(listed, kept, state)


def stored_runs(project: str | None = None) -> list[Run]:
    """As the store has them, newest first; nobody is asked."""
    kept = store()
    return [Run(record, kept) for record in kept.list("run", project)]


def seen(found: list[Run]) -> list[Run]:
    """The same, as they are now."""
    return runs.observed([one._record for one in found], store())


def delete_run(identifier: str, project: str | None = None) -> None:
    """Stop it and remove it. Raises EntityNotFound."""
    get_run(identifier, project).delete()


def import_function(file: str | Path, project: str | None = None, reset_id: bool = False) -> Function:
    """The function in an export, with its tasks. project: another one than it came from. reset_id: a new version.

    Raises ConfigError for a file that is no such export, EntityExists for an id that is there already.
    """
    records = documents.read(file)
    wanted = [record for record in records if record.type == "function"]
    if len(wanted) != 1 or any(record.type not in ("function", "task") for record in records):
        raise ConfigError(f"{file} holds no single function with its tasks; import_project reads a whole project")
    name = check_name("project", project or wanted[0].project)
    function = _imported(records, name, reset_id)[0]
    get_or_create_project(name)
    return function


def import_project(file: str | Path, reset_id: bool = False) -> projects.Project:
    """A project with its functions and tasks, from an export. Raises ConfigError, EntityExists."""
    records = documents.read(file)
    found = [record for record in records if record.type == "project"]
    if len(found) != 1:
        raise ConfigError(f"{file} holds no project; import_function reads a function")
    project = new_project(found[0].name, **{k: found[0].metadata.get(k) for k in ("description", "labels")})
    try:
        _imported(records, project.name, reset_id)
    except BaseException:
        delete_project(project.name)
        raise
    return project


def _imported(records: list[Record], project: str, reset_id: bool) -> list[Function]:
    """Functions with their tasks, whose references follow a new id or project. All of them, or none."""
    kept = store()
    wanted: dict[str, tuple[Record, dict[str, dict[str, Any]]]] = {}
    for record in records:
        if record.type == "function":
            old = function_string(record.kind, record.project, record.name, record.id)
            id = new_id() if reset_id else functions.check_id("id", record.id)
            time = now()
            metadata = record.metadata | {"version": id, "updated": time} | ({"created": time} if reset_id else {})
            spec = functions.read_spec(record.kind, record.spec)
            one = record.replace(project=project, id=id, metadata=metadata, spec=spec, status={"state": "CREATED"})
            wanted[old] = (one, {})
    for record in records:
        if record.type == "task":
            old = str(record.spec.get("function", ""))
            if old not in wanted:
                named = parse_function_string(old).name
                raise ConfigError(f"a task in the file is of the function {named}, which is not in the file")
            own = {name: value for name, value in record.spec.items() if name != "function"}
            action = functions.check_action(record.kind.rpartition("+")[2])
            wanted[old][1][action] = parameters.read(own, on="task")
    made: list[Function] = []
    try:
        for one, tasks in wanted.values():
            made.append(Function(kept.create(one), kept))
            for action, own in tasks.items():
                made[-1].new_task(action, **own)
    except BaseException:
        for function in made:
            function.delete()
        raise
    return made


def _key(text: str, type_: Type) -> Key:
    """Raises ConfigError for a key that is none, or of something else."""
    key = parse_key(text)
    if key.type != type_:
        raise ConfigError(f"{text!r} is the key of a {key.type}; a {type_} is wanted")
    return key
