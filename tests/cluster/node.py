"""A node whose pods are processes of this machine: a Node of the cluster, and the thread that does a kubelet's work.

The Node leads to an HTTPS server here, on loopback (node_api.py), so the API server must be on this machine too. It
takes pods as a scheduler would, starts them (process_pod.py), tells how they are, and lets them go when they are
removed. `python -m tests.cluster.node COMMAND…` has one for all namespaces while the command runs: so the suite meets
a cluster with nodes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.cluster import kubelet, places
from tests.cluster.api import Api, Json, in_namespace, pods
from tests.cluster.node_api import NodeApi
from tests.cluster.process_pod import ProcessPod
from tests.deploy.kubernetes.certificates import Authority
from tests.deploy.kubernetes.control_plane import KUBECONFIG

_LOOK_S = 0.1
_LABELS = {"kubernetes.io/os": "linux"}
_NO_MATCH = "0/1 nodes are available: 1 node(s) didn't match node selector."


class Node:
    """Of the pods of one namespace, "" for all. directory: for their files."""

    def __init__(self, api: Api, namespace: str, directory: Path) -> None:
        self.name = f"modelserve-test-{uuid.uuid4().hex[:10]}"
        self._api = api
        self._namespace = namespace
        self._directory = directory
        self._pods: dict[tuple[str, str], ProcessPod] = {}
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._answers = NodeApi(Authority(directory), self._pods.get)
        self._thread = threading.Thread(target=self._work, name="node", daemon=True)

    def start(self) -> None:
        self._api.create("/api/v1/nodes", {"metadata": {"name": self.name, "labels": _LABELS}}).ok()
        status: Json = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._answers.port}},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Tests", "message": ""}],
        }
        self._api.merge(f"/api/v1/nodes/{self.name}/status", {"status": status}).ok()
        self._answers.start()
        self._thread.start()

    def end(self) -> None:
        """Its pods' processes end, whatever has become of the pods."""
        self._over.set()
        self._thread.join(60)
        for pod in self._pods.values():
            pod.end()
        self._api.delete(f"/api/v1/nodes/{self.name}")
        self._answers.close()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while not self._over.wait(_LOOK_S):
                where = pods(self._namespace) if self._namespace else "/api/v1/pods"
                for pod in self._api.get(where).ok()["items"]:
                    self._look_at(pod)
        except BaseException as error:  # raised where the test ends
            self._error = error

    def _look_at(self, pod: Json) -> None:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        key = (namespace, name)
        if "deletionTimestamp" in pod["metadata"]:
            if running := self._pods.pop(key, None):
                running.end()
            self._api.delete(pods(namespace, name), gracePeriodSeconds=0)
        elif "nodeName" not in pod["spec"]:
            if not (pod["spec"].get("nodeSelector") or {}).items() <= _LABELS.items():
                if not pod["status"].get("conditions"):
                    self._tell(key, kubelet.unscheduled(_NO_MATCH).status)
                return
            target = {"apiVersion": "v1", "kind": "Node", "name": self.name}
            body = {"metadata": {"name": name}, "target": target}
            answer = self._api.create(pods(namespace, name, "binding"), body)
            assert answer.status in (201, 403, 404, 409), answer.text  # 403: its namespace is on its way out
        elif pod["spec"]["nodeName"] != self.name:
            return
        elif key not in self._pods:
            self._pods[key] = ProcessPod(self._api, pod, self._directory / pod["metadata"]["uid"])
            self._tell(key, self._pods[key].first_status())
        elif status := self._pods[key].look():
            self._tell(key, status)

    def _tell(self, pod: tuple[str, str], status: Json) -> None:
        answer = self._api.merge(pods(*pod, "status"), {"status": status})
        assert answer.status in (200, 404), answer.text


@contextlib.contextmanager
def node(api: Api, namespace: str, directory: Path) -> Iterator[Node]:
    """All of the namespace's pods have ended afterwards."""
    made = Node(api, namespace, directory)
    made.start()
    try:
        yield made
    finally:
        try:
            api.delete(in_namespace("apps/v1", namespace, "deployments"))  # or pods would be made again
            places.until(lambda: not _left(api, namespace), 60, "the pods' end")
        finally:
            made.end()


def _left(api: Api, namespace: str) -> list[Json]:
    """Pods that are there; each look removes them, since a ReplicaSet may just have made another."""
    api.delete(pods(namespace))
    found: list[Json] = api.get(pods(namespace)).ok()["items"]
    return found


def main(command: list[str]) -> int:
    api = Api.of(os.environ[KUBECONFIG])
    with tempfile.TemporaryDirectory() as directory:
        made = Node(api, "", Path(directory))
        made.start()
        try:
            return subprocess.run(command, check=False).returncode
        finally:
            made.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
