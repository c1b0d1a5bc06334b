"""From a request to its answer: discovery, and each verb on each resource.

Knows no sockets. An answer that is a stream is read without the store's lock.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.deploy.kubernetes.fake import kinds, logs, paths, selectors, status, watches, writes
from tests.deploy.kubernetes.fake.access import Access
from tests.deploy.kubernetes.fake.clock import Clock
from tests.deploy.kubernetes.fake.kinds import Kind, Object
from tests.deploy.kubernetes.fake.logs import Line, Logs
from tests.deploy.kubernetes.fake.objects import Objects, stamp
from tests.deploy.kubernetes.fake.paths import Asked, Place

_VERSION = {
    "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35", "gitVersion": "v1.36.2", "gitCommit": "", "gitTreeState": "clean",
    "buildDate": "2026-11-22T00:00:00Z", "goVersion": "go1.27.3", "compiler": "gc", "platform": "linux/amd64",
}  # fmt: skip
_OPEN = ("/version", "/readyz", "/livez", "/healthz")
JSON, TEXT = "application/json", "text/plain; charset=utf-8"


@dataclass(slots=True)
class Reply:
    """A whole answer. body None: empty."""

    code: int
    body: Object | str | None
    content: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Stream:
    """An answer that comes in lines."""

    lines: Iterator[bytes]
    content: str
    watch: bool


@dataclass(slots=True)
class Forward:
    """A port-forward to this pod."""

    pod: Object
    ports: list[int]


Answer = Reply | Stream | Forward


@dataclass(slots=True)
class State:
    """What the API is of."""

    objects: Objects
    access: Access
    clock: Clock
    logs: Logs
    installed: frozenset[str] = frozenset()
    """The optional groups that are there."""
    usage: dict[str, str] = field(default_factory=lambda: {"cpu": "100m", "memory": "128Mi"})
    """Of every container, where metrics are installed."""


def answer(state: State, asked: Asked, line: Line) -> Answer:
    """Raises Refused."""
    user = state.access.user(asked.authorization)
    if asked.path in _OPEN:
        if asked.path == "/version":
            return Reply(200, dict(_VERSION))
        return Reply(200, "ok", TEXT)
    where = paths.place(asked.path, state.installed)
    if where is None:
        return _discovery(state, asked, user)
    verb = paths.verb(asked, where)
    state.access.check(user, verb, where.kind, where.namespace, where.name, where.subresource)
    if where.subresource == "log":
        return _log(state, asked, where, line)
    if where.subresource == "portforward":
        return _forward(state, asked, where)
    if verb == "watch":
        if where.name:
            selector = f"metadata.name={where.name}"
            asked.query["fieldSelector"] = ",".join(filter(None, [asked.query.get("fieldSelector", ""), selector]))
        return Stream(watches.lines(state.objects, state.clock, asked, where, line), JSON, True)
    if where.kind is kinds.METRICS:
        return Reply(200, _metrics(state, where))
    with state.objects.lock:
        code, body = _reviewed(state, asked, user) if where.kind is kinds.REVIEW else _one(state, asked, where, verb)
    return Reply(code, body)


def _one(state: State, asked: Asked, where: Place, verb: str) -> writes.Answer:
    objects = state.objects
    if verb == "list":
        return 200, _list(objects, asked, where)
    if verb == "get":
        if where.subresource == "scale":
            return writes.scale(objects, where)
        found = objects.get(where.kind, where.namespace, where.name)
        if found is None:
            raise status.not_found(where.kind, where.name)
        return 200, found
    if verb == "create" and not where.name:
        return writes.create(objects, asked, where)
    if verb in ("update", "patch") and where.name:
        return (writes.replace if verb == "update" else writes.patch)(objects, asked, where)
    if verb == "delete" and not where.subresource:
        return writes.delete(objects, asked, where)
    if verb == "deletecollection":
        return writes.delete_all(objects, asked, where)
    raise status.method_not_allowed()


def _discovery(state: State, asked: Asked, user: str) -> Reply:
    if user == "system:anonymous":
        message = f'forbidden: User "{user}" cannot get path "{asked.path}"'
        raise status.failure(403, message, "Forbidden", {})
    parts = asked.path.strip("/").split("/")
    groups = kinds.groups(state.installed)
    if parts == ["api"]:
        return Reply(200, {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
    if parts == ["apis"]:
        return Reply(200, kinds.group_list(state.installed))
    if parts == ["api", "v1"]:
        return Reply(200, kinds.resource_list("", "v1"))
    if parts[0] == "apis" and len(parts) == 2 and parts[1] in groups:
        return Reply(200, {"kind": "APIGroup", "apiVersion": "v1"} | kinds.group_of(parts[1], groups[parts[1]]))
    if parts[0] == "apis" and len(parts) == 3 and parts[2] in groups.get(parts[1], ()):
        return Reply(200, kinds.resource_list(parts[1], parts[2]))
    raise status.no_page()


def _reviewed(state: State, asked: Asked, user: str) -> writes.Answer:
    body = writes.document(asked)
    wanted = body["spec"].get("resourceAttributes") or {}
    resource = wanted.get("resource", "*")
    if wanted.get("subresource"):
        resource += f"/{wanted['subresource']}"
    allowed = state.access.allowed(user, wanted.get("verb", "*"), resource, wanted.get("namespace", ""))
    return 201, body | {"metadata": {}, "status": {"allowed": allowed}}


def _list(objects: Objects, asked: Asked, where: Place) -> Object:
    kind, query = where.kind, asked.query
    found = objects.all(
        kind,
        where.namespace,
        selectors.of(kind, query.get("labelSelector", ""), query.get("fieldSelector", "")),
    )
    version, limit = objects.version, int(query.get("limit", 0))
    if token := query.get("continue"):
        version, start = _read_token(token)
        if version < objects.oldest:
            raise status.expired_page()
        found = [one for one in found if _key(one, where) >= start]
    metadata: Object = {"resourceVersion": str(version)}
    if limit and len(found) > limit:
        metadata |= {
            "continue": _token(version, _key(found[limit - 1], where)),
            "remainingItemCount": len(found) - limit,
        }
        found = found[:limit]
    return {
        "kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": metadata,
        "items": [_item(kind, one) for one in found],
    }  # fmt: skip


def _item(kind: Kind, found: Object) -> Object:
    """Items of built-in kinds do not say what they are."""
    if kind.group in kinds.OPTIONAL_GROUPS:
        return found
    return {key: value for key, value in found.items() if key not in ("kind", "apiVersion")}


def _key(found: Object, where: Place) -> str:
    space = "" if where.namespace else f"/{found['metadata'].get('namespace', '')}"
    return f"{space}/{found['metadata']['name']}"


def _token(version: int, last: str) -> str:
    """Where the next page starts: right after the last one's key."""
    said = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": f"{last}\0"}, separators=(",", ":"))
    return base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, str]:
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    try:
        said = json.loads(raw)
        return int(said["rv"]), said["start"]
    except (ValueError, KeyError) as error:
        first = f"\\x{raw[0]:02x}" if raw and raw[0] > 127 else raw[:1].decode()
        words = (
            "invalid continue token: continue key is not valid: "
            f"invalid character '{first}' looking for beginning of value"
        )
        raise status.bad_request(words) from error


def _pod(state: State, where: Place) -> Object:
    found = state.objects.get(kinds.POD, where.namespace, where.name)
    if found is None:
        raise status.not_found(kinds.POD, where.name)
    return found


def _log(state: State, asked: Asked, where: Place, line: Line) -> Answer:
    with state.objects.lock:
        pod = _pod(state, where)
        name, told = logs.chosen(pod, asked.query.get("container", ""))
        if not pod["spec"].get("nodeName"):
            return Reply(204, None, "")
        previous = asked.told("previous")
        logs.readable(pod, name, told, previous=previous)
        waits = "waiting" in (told or {}).get("state", {})
        run = state.logs.run(pod["metadata"]["uid"], name, previous=previous, waits=waits)
    if run is None:
        return Reply(200, "", "text/plain")
    written = logs.lines(state.objects, run, asked, line)
    if asked.told("follow"):
        return Stream(written, "text/plain", False)
    return Reply(200, b"".join(written).decode(errors="replace"), "text/plain")


def _forward(state: State, asked: Asked, where: Place) -> Forward:
    with state.objects.lock:
        pod = _pod(state, where)
    if not pod["spec"].get("nodeName"):
        raise status.bad_request(f"pod {where.name} does not have a host assigned")
    try:
        ports = [int(port) for port in asked.query.get("ports", "").split(",") if port]
    except ValueError as error:
        raise status.bad_request(f"unable to parse ports: {asked.query['ports']}") from error
    if not ports:
        raise status.bad_request('query parameter "port" is required')
    return Forward(pod, ports)


def _metrics(state: State, where: Place) -> Object:
    """Not recorded: what metrics-server says of the pods that run."""
    with state.objects.lock:
        pods = [
            one
            for one in state.objects.all(kinds.POD, where.namespace)
            if one["status"].get("phase") == "Running" and where.name in ("", one["metadata"]["name"])
        ]
    items = [
        {
            "metadata": {key: one["metadata"].get(key) for key in ("name", "namespace", "labels")},
            "timestamp": stamp(), "window": "15s",
            "containers": [
                {"name": each["name"], "usage": dict(state.usage)}
                for part in ("containers", "initContainers") for each in one["spec"].get(part, [])
                if part == "containers" or each.get("restartPolicy") == "Always"
            ],
        }
        for one in pods
    ]  # fmt: skip
    if not where.name:
        return {"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items}
    if not items:
        raise status.not_found(kinds.METRICS, where.name)
    return {"kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1"} | items[0]
