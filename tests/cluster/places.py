"""Namespaces of the suite's own, and users with few rights in them. Whatever is made here is removed by who made it."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tests.cluster.api import Api, Json, in_namespace

LABEL = "modelserve-test"
_GONE_S = 120.0
T = TypeVar("T")


@contextlib.contextmanager
def namespace(api: Api) -> Iterator[str]:
    """A new one, with what the cluster puts into each: Pods may be made at once. Its end is begun, not awaited."""
    name = f"modelserve-test-{uuid.uuid4().hex[:10]}"
    api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": {LABEL: "true"}}}).ok()
    try:
        account = in_namespace("v1", name, "serviceaccounts", "default")
        until(lambda: api.get(account).status == 200, 30, "the namespace's account")
        yield name
    finally:
        answer = api.delete(f"/api/v1/namespaces/{name}")
        assert answer.status in (200, 202, 404, 409), answer.text


def gone(api: Api, names: Iterable[str]) -> None:
    """Wait until these namespaces are not there any more."""
    for name in names:
        until(lambda name=name: api.get(f"/api/v1/namespaces/{name}").status == 404, _GONE_S, f"the end of {name}")  # type: ignore[misc]


def user(api: Api, namespace: str, name: str, rules: list[Json]) -> str:
    """The token of an account in the namespace that may do just this there."""
    api.create(in_namespace("v1", namespace, "serviceaccounts"), {"metadata": {"name": name}}).ok()
    if rules:
        rbac = "rbac.authorization.k8s.io"
        role = {"metadata": {"name": name}, "rules": rules}
        api.create(in_namespace(f"{rbac}/v1", namespace, "roles"), role).ok()
        binding = {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }
        api.create(in_namespace(f"{rbac}/v1", namespace, "rolebindings"), binding).ok()
    request = {"spec": {"expirationSeconds": 3600}}
    made = api.create(in_namespace("v1", namespace, "serviceaccounts", name, "token"), request).ok()
    return str(made["status"]["token"])


def until(condition: Callable[[], T], timeout_s: float, what: str) -> T:
    """Its first value that is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.05)
    return found
