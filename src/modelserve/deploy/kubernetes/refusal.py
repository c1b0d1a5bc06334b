"""What a cluster's refusal means, as one sentence for whoever asked. Pure.

The API server's words are kept: they name the field, the quota, the right that is missing.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from modelserve.deploy.kubernetes.place import Place
from modelserve.deploy.kubernetes.resources import RESOURCES
from modelserve.errors import TargetRefused

_MANAGER = re.compile(r'conflict with "([^"]*)"')
_VERBS = {"PATCH": "apply", "GET": "read", "DELETE": "delete"}


class Asked(NamedTuple):
    method: str
    kind: str
    name: str


class Busy(Exception):
    """Not an answer: the server would be asked again later."""

    def __init__(self, error: TargetRefused, retry_after: str) -> None:
        super().__init__(error.message)
        self.error = error
        self.pause_s = float(retry_after) if re.fullmatch(r"\d{1,4}(\.\d+)?", retry_after) else 1.0


def of(place: Place, asked: Asked, status: int, text: str) -> TargetRefused:
    """The error for an answer. text: its body, a Status where the API server itself answers."""
    said = _status(text)
    reason = str(said.get("reason") or "")
    causes = (said.get("details") or {}).get("causes") or []
    message = " ".join(str(said.get("message") or text).split()) or f"it answers {status}"
    managers = tuple(
        found[1]
        for cause in causes
        if cause.get("reason") == "FieldManagerConflict" and (found := _MANAGER.search(str(cause.get("message"))))
    )
    return TargetRefused(
        _sentence(place, asked, status, message, causes, said), status=status, reason=reason, managers=managers
    )


def unreachable(place: Place, error: BaseException) -> str:
    """A sentence for a connection that failed."""
    return f"the cluster {place.title} does not answer: {_cause(error)}"


def _sentence(place: Place, asked: Asked, status: int, message: str, causes: list[Any], said: dict[str, Any]) -> str:
    what = f"{asked.kind} {asked.name}".strip()
    verb = _VERBS.get(asked.method, asked.method)
    if status == 401:
        return (
            f"the cluster {place.title} does not know you (401 Unauthorized); renew the credentials of the kubeconfig"
        )
    if status == 403 and any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
        return f"the namespace {place.namespace} is being removed; wait until it is gone, or give another"
    if status == 403:
        return f"the cluster refuses to {verb} {what}: {message}"
    if status == 404 and (said.get("details") or {}).get("kind") == "namespaces":
        return (
            f"the cluster {place.title} has no namespace {place.namespace!r}; make it with: kubectl create namespace "
            f"{place.namespace}"
        )
    if status == 404 and not (said.get("details") or {}).get("name"):  # no object is missing, but its whole kind
        version = RESOURCES[asked.kind].api_version
        more = ", which comes with KServe" if version.startswith("serving.kserve.io") else ""
        return f"the cluster {place.title} does not know {version} {asked.kind}{more}"
    if status == 409 and any(cause.get("reason") == "FieldManagerConflict" for cause in causes):
        fields = ", ".join(f"{cause.get('field')} ({_owner(cause)})" for cause in causes)
        return f"{what} has fields that others have set: {fields}; force=True takes them over"
    return f"the cluster cannot {verb} {what} ({status}): {message}"


def _owner(cause: dict[str, Any]) -> str:
    found = _MANAGER.search(str(cause.get("message")))
    return found[1] if found else str(cause.get("message"))


def _status(text: str) -> dict[str, Any]:
    """{} for what is no Status: an API group that is not there, or a proxy in between."""
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    return said if isinstance(said, dict) and said.get("kind") == "Status" else {}


def _cause(error: BaseException) -> str:
    """The innermost reason of a failed request, without objects' addresses."""
    reason: BaseException = error
    while (inner := getattr(reason, "reason", None) or reason.__cause__ or reason.__context__) is not None:
        if not isinstance(inner, BaseException):
            break
        reason = inner
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    text = " ".join(str(getattr(reason, "reason", None) or reason).split())
    return re.sub(r"<[^>]* object at 0x[0-9a-f]+>:? ?", "", text) or type(reason).__name__
