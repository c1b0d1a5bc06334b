"""From a request's path to what it asks for. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote

from tests.deploy.kubernetes.fake import kinds, status
from tests.deploy.kubernetes.fake.kinds import Kind


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that has been read."""

    method: str
    path: str
    query: dict[str, str]
    content: str = ""
    """The body's type, without parameters."""
    body: bytes = b""
    agent: str = ""
    authorization: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def told(self, name: str) -> bool:
        return self.query.get(name, "") in ("true", "1", "True")


@dataclass(frozen=True, slots=True)
class Place:
    """Which resource. name "": all of them; namespace "": of all namespaces, or a kind that has none."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def place(path: str, installed: frozenset[str]) -> Place | None:
    """None for what is no resource. Raises 404 for a group or a resource that is not there."""
    parts = [unquote(one) for one in path.strip("/").split("/")]
    if parts[:2] == ["api", "v1"] and len(parts) > 2:
        group, version, rest = "", "v1", parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
        if version not in kinds.groups(installed).get(group, ()):
            raise status.no_page()
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] != "status":
        namespace, rest = rest[1], rest[2:]
    kind = kinds.find(group, version, rest[0])
    name, subresource = [*rest[1:], "", ""][:2]
    known = kind is not None and (not subresource or subresource in kind.subresources)
    if kind is None or not known or len(rest) > 3 or (namespace and not kind.namespaced):
        raise status.no_resource()
    if name and kind.namespaced and not namespace:
        raise status.no_resource()
    return Place(kind, namespace, name, subresource)


_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def verb(asked: Asked, where: Place) -> str:
    if asked.method == "GET" and asked.told("watch"):
        return "watch"
    if asked.method == "GET" and not where.name:
        return "list"
    if asked.method == "DELETE" and not where.name:
        return "deletecollection"
    if where.subresource == "portforward" and asked.method in ("GET", "POST"):
        return "get" if asked.method == "GET" else "create"
    return _VERBS.get(asked.method, asked.method.lower())
