"""The suite's own hand in a cluster: plain requests to the API server, as the kubeconfig's user or as another.

Knows nothing of modelserve, so that what the SDK did is seen by something else than the SDK. May be used by several
threads.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import load_kube_config

Json = dict[str, Any]
APPLY, MERGE, JSON = "application/apply-patch+yaml", "application/merge-patch+json", "application/json"
_TIMEOUT = urllib3.Timeout(connect=5, read=30)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    def ok(self) -> Any:
        """Its JSON, where the server did what was asked of it."""
        assert 200 <= self.status < 300, f"{self.status}: {self.text}"
        return self.json


class Api:
    """configuration: where, and as whom."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self._signing = threading.Lock()

    @classmethod
    def of(cls, kubeconfig: Path | str, context: str = "") -> Api:
        """context: "" for the file's own."""
        configuration = Configuration()
        load_kube_config(str(kubeconfig), context or None, configuration, persist_config=False)
        return cls(configuration)

    @property
    def server(self) -> str:
        """Its URL."""
        return str(self._configuration.host)

    def as_bearer(self, token: str) -> Api:
        """The same server, asked by whoever has this token; by nobody where it is ""."""
        configuration = Configuration(host=self._configuration.host)
        for name in ("ssl_ca_cert", "verify_ssl", "proxy", "tls_server_name"):
            setattr(configuration, name, getattr(self._configuration, name))
        if token:
            configuration.api_key = {"authorization": f"Bearer {token}"}
        return Api(configuration)

    def close(self) -> None:
        self._client.rest_client.close()

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content: str = JSON,
    ) -> Answer:
        """Whatever the server answers. A body that is a text goes as it is."""
        with self._signing:
            _, url, headers, _, _ = self._client.param_serialize(
                method, path, query_params=[*(query or {}).items()], auth_settings=["BearerToken"]
            )
        headers |= {"Accept": JSON} | ({"Content-Type": content} if body is not None else {})
        said = body if body is None or isinstance(body, str) else json.dumps(body)
        response = self._client.rest_client.pool_manager.request(
            method, url, body=said, headers=headers, timeout=_TIMEOUT, retries=False
        )
        return Answer(response.status, response.data.decode(), dict(response.headers))

    def get(self, path: str, **query: Any) -> Answer:
        return self.ask("GET", path, query)

    def create(self, path: str, body: Json, **query: Any) -> Answer:
        return self.ask("POST", path, query, body)

    def merge(self, path: str, body: Json, **query: Any) -> Answer:
        return self.ask("PATCH", path, query, body, MERGE)

    def delete(self, path: str, **query: Any) -> Answer:
        return self.ask("DELETE", path, query)

    def everything(self, namespace: str, labels: str = "") -> dict[tuple[str, str, str], Json]:
        """Every object of every kind that the namespace has, by (group/version, kind, name). Events are left out: they
        tell what happened, and the server forgets them by itself."""
        found: dict[tuple[str, str, str], Json] = {}
        for version, plural, kind in self.kinds():
            if kind == "Event":
                continue
            listed = self.get(in_namespace(version, namespace, plural), **({"labelSelector": labels} if labels else {}))
            if listed.status in (404, 405):  # an aggregated API whose server is away, or a kind that is not kept
                continue
            for one in listed.ok().get("items") or ():
                found[version, kind, one["metadata"]["name"]] = {"apiVersion": version, "kind": kind} | one
        return found

    def kinds(self) -> list[tuple[str, str, str]]:
        """(group/version, plural, kind) of whatever a namespace can hold and the server can list."""
        versions = ["v1", *(group["preferredVersion"]["groupVersion"] for group in self.get("/apis").ok()["groups"])]
        found = []
        for version in versions:
            answer = self.get(f"/apis/{version}" if "/" in version else f"/api/{version}")
            if answer.status in (404, 503):
                continue
            for one in answer.ok()["resources"]:
                if one["namespaced"] and "list" in one["verbs"] and "/" not in one["name"]:
                    found.append((version, one["name"], one["kind"]))
        return found


def in_namespace(version: str, namespace: str, plural: str, name: str = "", subresource: str = "") -> str:
    """The path of all objects of a kind in a namespace, or of one."""
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    parts = ["namespaces", namespace, plural, name, subresource]
    return "/".join([root, *(quote(part, safe="") for part in parts if part)])


def pods(namespace: str, name: str = "", subresource: str = "") -> str:
    return in_namespace("v1", namespace, "pods", name, subresource)


def deployments(namespace: str, name: str = "", subresource: str = "") -> str:
    return in_namespace("apps/v1", namespace, "deployments", name, subresource)
