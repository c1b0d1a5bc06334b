"""One cluster's API over HTTP, in plain dicts: apply, read, watch, remove. Every answer comes within a bound.

Knows no run. An object may be used by several threads.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from modelserve.deploy.kubernetes import place as places
from modelserve.deploy.kubernetes import refusal
from modelserve.deploy.kubernetes.place import Place
from modelserve.deploy.kubernetes.resources import RESOURCES
from modelserve.deploy.kubernetes.stream import Stream
from modelserve.errors import TargetRefused, TargetUnreachable

MANAGER = "modelserve"
"""Our field manager: what it has set is ours, and what others have set is not overwritten unasked."""
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
_CONNECT_S, _READ_S = 5.0, 20.0
_FOLLOW_S = 3600.0
"""A server may have nothing to say for long."""
_BUSY = (429, 502, 503, 504)
"""Not now: asked again, since everything that is asked here may be asked twice."""
_TRIES = 4
_LONGEST_PAUSE_S = 5.0
_PAGE = 500
Json = dict[str, Any]


class Cluster:
    """The API at a place, as its user."""

    def __init__(self, kubeconfig: str = "", context: str = "", namespace: str = "") -> None:
        """Each "" for what the environment says. Asks nothing yet. Raises ConfigError."""
        from kubernetes.client import ApiClient

        self.place, self.configuration = places.find(kubeconfig, context, namespace)
        self.configuration.keep_alive = True  # of a watch that a NAT has dropped nobody would hear otherwise
        self.configuration.retries = False  # what is worth another try is told apart here
        self._api = ApiClient(self.configuration)
        self._signing = threading.Lock()

    @classmethod
    def at(cls, place: Place) -> Cluster:
        return cls(place.kubeconfig, place.context, place.namespace)

    def close(self) -> None:
        self._api.rest_client.close()

    def apply(self, manifest: Json, *, dry_run: bool = False, force: bool = False) -> Json:
        """The object as it is then. Fields that another has set are left, unless `force`, and TargetRefused is raised;
        those that we have set otherwise, such as a scale, are ours to change."""
        try:
            return self._apply(manifest, dry_run, force)
        except TargetRefused as error:
            if force or not error.managers or any(name != MANAGER for name in error.managers):
                raise
            return self._apply(manifest, dry_run, True)

    def _apply(self, manifest: Json, dry_run: bool, force: bool) -> Json:
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
        query |= {"dryRun": "All"} if dry_run else {}
        query |= {"force": "true"} if force else {}
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        found: Json = json.loads(self._call("PATCH", kind, name, query=query, body=manifest, content=APPLY))
        return found

    def get(self, kind: str, name: str) -> Json | None:
        """None where there is none."""
        try:
            found: Json = json.loads(self._call("GET", kind, name))
            return found
        except TargetRefused as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, labels: str = "", fields: str = "") -> tuple[list[Json], str]:
        """All that have the labels, and the version of the list, from which a watch goes on."""
        found: list[Json] = []
        query = _selected(labels, fields) | {"limit": str(_PAGE)}
        while True:
            page = json.loads(self._call("GET", kind, query=query))
            found += page.get("items") or []
            version = str(page["metadata"].get("resourceVersion", ""))
            if not (more := page["metadata"].get("continue")):
                return found, version
            query["continue"] = more

    def scale(self, kind: str, name: str, replicas: int) -> None:
        body = {"spec": {"replicas": replicas}}
        self._call("PATCH", kind, name, "scale", query={"fieldManager": MANAGER}, body=body, content=MERGE)

    def delete(self, kind: str, name: str) -> None:
        """With all that it has made, which ends later. No error when it is not there."""
        try:
            self._call("DELETE", kind, name, query={"propagationPolicy": "Background"})
        except TargetRefused as error:
            if error.status != 404:
                raise

    def watch(self, kind: str, labels: str, version: str, timeout_s: int) -> Stream:
        """Events {"type", "object"}, one JSON text a line, from this version on, for so long."""
        query = _selected(labels, "") | {
            "watch": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(timeout_s),
            "allowWatchBookmarks": "true",
        }
        return Stream(self.place, self._response("GET", kind, query=query, read_s=timeout_s + _READ_S))

    def log(self, pod: str, query: Mapping[str, str]) -> Stream:
        """A container's log, while it comes. query: that of the API (container, tailLines, follow, …)."""
        read_s = _FOLLOW_S if query.get("follow") == "true" else _READ_S
        return Stream(self.place, self._response("GET", "Pod", pod, "log", query=query, read_s=read_s))

    def signed(self, method: str, path: str, query: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """The URL, and the headers that say who asks."""
        with self._signing:  # a token that has expired is fetched again, by one thread
            _, url, headers, _, _ = self._api.param_serialize(
                method, path, query_params=list(query.items()), auth_settings=["BearerToken"]
            )
        return str(url), dict(headers)

    def _call(self, method: str, kind: str, name: str = "", subresource: str = "", **more: Any) -> bytes:
        """The whole answer."""
        from urllib3.exceptions import HTTPError

        try:
            with self._response(method, kind, name, subresource, **more) as response:
                return bytes(response.read())
        except (HTTPError, OSError) as error:
            raise TargetUnreachable(refusal.unreachable(self.place, error)) from error

    def _response(self, *asked: Any, **more: Any) -> Any:
        """As _try; asked again while the server says that it is busy."""
        for left in reversed(range(_TRIES)):
            try:
                return self._try(*asked, **more)
            except refusal.Busy as busy:
                if not left:
                    raise busy.error from busy
                time.sleep(min(busy.pause_s, _LONGEST_PAUSE_S))
        raise AssertionError("the last try returns or raises")

    def _try(
        self,
        method: str,
        kind: str,
        name: str = "",
        subresource: str = "",
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content: str = "",
        read_s: float | None = None,
    ) -> Any:
        """urllib3's, of a good answer, not read yet. Raises TargetRefused, TargetUnreachable, Busy."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError, ProtocolError

        url, headers = self.signed(method, RESOURCES[kind].path(self.place.namespace, name, subresource), query or {})
        headers |= {"Content-Type": content} if content else {}
        # The library writes JSON itself, but no YAML, in each of its versions; JSON is YAML, too.
        said = json.dumps(body) if content == APPLY else body
        timeouts = (_CONNECT_S, _READ_S if read_s is None else read_s)

        def asked() -> Any:
            return self._api.call_api(method, url, headers, said, _request_timeout=timeouts).response

        try:
            try:
                response = asked()
            except ProtocolError:  # a connection that was kept, and that the other side has closed meanwhile
                response = asked()
            if 200 <= response.status < 300:
                return response
            with response:
                text = response.read().decode(errors="replace")
        except (HTTPError, OSError, ApiException) as error:  # ApiException: certificates
            raise TargetUnreachable(refusal.unreachable(self.place, error)) from error
        raised = refusal.of(self.place, refusal.Asked(method, kind, name), response.status, text)
        if response.status in _BUSY:
            raise refusal.Busy(raised, response.headers.get("Retry-After", "1"))
        raise raised


def _selected(labels: str, fields: str) -> dict[str, str]:
    return {key: value for key, value in {"labelSelector": labels, "fieldSelector": fields}.items() if value}
