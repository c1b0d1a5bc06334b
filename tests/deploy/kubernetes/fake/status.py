"""Status answers of the fake API server, in the recorded words; where none is recorded, in its sources'. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.deploy.kubernetes.fake.kinds import Kind, Object


class Refused(Exception):
    """A request that is answered with a Status, or with text where `text` is set."""

    def __init__(self, code: int, body: Object | None = None, text: str = "", retry_after: str = "") -> None:
        super().__init__(body["message"] if body else text)
        self.code, self.body, self.text, self.retry_after = code, body, text, retry_after


@dataclass(frozen=True, slots=True)
class Cause:
    """One field of an object that is not valid."""

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def failure(code: int, message: str, reason: str = "", details: Object | None = None) -> Refused:
    body: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    if reason:
        body["reason"] = reason
    if details is not None:
        body["details"] = details
    return Refused(code, body | {"code": code})


def details(kind: Kind, name: str = "") -> Object:
    found = {"name": name, "group": kind.group, "kind": kind.plural}
    return {key: value for key, value in found.items() if value}


def success(kind: Kind, name: str, uid: str) -> Object:
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": details(kind, name) | {"uid": uid},
    }  # fmt: skip


def not_found(kind: Kind, name: str) -> Refused:
    return failure(404, f'{kind.qualified} "{name}" not found', "NotFound", details(kind, name))


def no_resource() -> Refused:
    return failure(404, "the server could not find the requested resource", "NotFound", {})


def no_page() -> Refused:
    """What is no part of the API: a group that is not installed."""
    return Refused(404, text="404 page not found\n")


def exists(kind: Kind, name: str) -> Refused:
    return failure(409, f'{kind.qualified} "{name}" already exists', "AlreadyExists", details(kind, name))


def modified(kind: Kind, name: str) -> Refused:
    message = (
        f'Operation cannot be fulfilled on {kind.qualified} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    return failure(409, message, "Conflict", details(kind, name))


def method_not_allowed() -> Refused:
    message = "the server does not allow this method on the requested resource"
    return failure(405, message, "MethodNotAllowed", {})


def unsupported() -> Refused:
    return failure(415, "415: Unsupported Media Type", "UnsupportedMediaType", {})


def bad_request(message: str) -> Refused:
    return failure(400, message, "BadRequest")


def unauthorized() -> Refused:
    return failure(401, "Unauthorized", "Unauthorized")


def forbidden(user: str, verb: str, kind: Kind, namespace: str, name: str, subresource: str = "") -> Refused:
    where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
    resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
    what = f'{kind.qualified} "{name}"' if name else kind.qualified
    message = (
        f'{what} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{kind.group}"{where}'
    )
    return failure(403, message, "Forbidden", details(kind, name))


def terminating(kind: Kind, name: str, namespace: str) -> Refused:
    message = (
        f'{kind.qualified} "{name}" is forbidden: unable to create new content in namespace {namespace} '
        "because it is being terminated"
    )
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {namespace} is being terminated",
        "field": "metadata.namespace",
    }
    return failure(403, message, "Forbidden", details(kind, name) | {"causes": [cause]})


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> Refused:
    words = ", ".join(map(str, causes))
    said = f"[{words}]" if len(causes) > 1 else words
    what = f"{kind}.{group}" if group else kind
    known = {"name": name, "group": group, "kind": kind}
    each = [{"reason": one.reason, "message": one.message, "field": one.field} for one in causes]
    found: Object = {key: value for key, value in known.items() if value} | {"causes": each}
    return failure(422, f'{what} "{name}" is invalid: {said}', "Invalid", found)


def conflicts(found: Sequence[tuple[str, str]]) -> Refused:
    """found: managers, as they are named, and the fields that they have set."""
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": field}
        for manager, field in found
    ]
    if len(found) == 1:
        message = f"Apply failed with 1 conflict: conflict with {found[0][0]}: {found[0][1]}"
    else:
        by_manager = {manager: [field for other, field in found if other == manager] for manager, _ in found}
        each = ["\n- ".join([f"conflicts with {manager}:", *fields]) for manager, fields in sorted(by_manager.items())]
        message = f"Apply failed with {len(found)} conflicts: " + "\n".join(each)
    return failure(409, message, "Conflict", {"causes": causes})


def expired(asked: int, oldest: int) -> Refused:
    return failure(410, f"too old resource version: {asked} ({oldest})", "Expired")


def expired_page() -> Refused:
    message = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
        "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
        "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
        "modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )
    return failure(410, message, "Expired")


def over_quota(kind: Kind, name: str, words: str) -> Refused:
    return failure(403, f'{kind.qualified} "{name}" is forbidden: {words}', "Forbidden", details(kind, name))


def ordered(code: int) -> Refused:
    """What a test has ordered: a server that is out of order, or busy."""
    if code == 429:
        return Refused(429, text="Too many requests, please try again later.\n", retry_after="1")
    if code == 503:
        return failure(503, "the server is currently unable to handle the request", "ServiceUnavailable")
    if code == 504:
        return failure(504, "Timeout: request did not complete within the allotted timeout", "Timeout")
    message = "Internal error occurred: etcdserver: request timed out"
    causes = {"causes": [{"message": "etcdserver: request timed out"}]}
    return failure(code, message, "InternalError", causes)
