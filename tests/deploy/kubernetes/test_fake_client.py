"""The fake cluster, used by the official client: discovery, apply, watch, logs, port-forward, delete."""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward

from tests.deploy.kubernetes import manifests
from tests.deploy.kubernetes.fake import LIMITED, Fake, cluster, fates


@contextmanager
def _api(fake: Fake, folder: Path, **given: Any) -> Iterator[client.ApiClient]:
    """By a kubeconfig, closed at the end."""
    file = fake.kubeconfig(folder / "config", **given)
    api = config.new_client_from_config(str(file))
    try:
        yield api
    finally:
        api.rest_client.pool_manager.clear()
        api.close()


@pytest.fixture
def fake() -> Iterator[Fake]:
    with cluster() as found:
        yield found


@pytest.fixture
def api(fake: Fake, tmp_path: Path) -> Iterator[client.ApiClient]:
    with _api(fake, tmp_path) as found:
        yield found


def _apply(api: client.ApiClient, manifest: dict[str, Any], tmp_path: Path) -> Any:
    dynamic_ = dynamic.DynamicClient(api, cache_file=str(tmp_path / "discovery"))
    resource = dynamic_.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
    return dynamic_.server_side_apply(
        resource, body=manifest, name=manifest["metadata"]["name"], namespace="default", field_manager="test"
    )


def _available(fake: Fake, name: str = "web", replicas: int = 1) -> bool:
    return any(
        one["metadata"]["name"] == name and one["status"].get("availableReplicas") == replicas
        for one in fake.objects("Deployment")
    )


def test_applies_by_discovery_watches_and_deletes(fake: Fake, api: client.ApiClient, tmp_path: Path) -> None:
    fake.fate = fates.unready()
    probe = {"httpGet": {"path": "/", "port": 8080}}
    made = _apply(api, manifests.deployment(replicas=2, readinessProbe=probe), tmp_path)
    assert made.metadata.managedFields[0].manager == "test"
    seen = []
    apps = client.AppsV1Api(api)
    watching = watch.Watch()
    for event in watching.stream(apps.list_namespaced_deployment, "default", timeout_seconds=600):
        seen.append(event["type"])
        fake.fate = fates.READY
        if event["object"].status.available_replicas == 2:
            watching.stop()
    assert seen[0] == "ADDED"
    assert set(seen[1:]) == {"MODIFIED"}
    apps.delete_namespaced_deployment("web", "default", propagation_policy="Foreground")
    fake.wait(lambda: not fake.everything("default"))


def test_reads_and_follows_a_log(fake: Fake, api: client.ApiClient) -> None:
    fake.fate = fates.ready("one", "two")
    fake.add(manifests.deployment())
    fake.wait(lambda: _available(fake))
    core = client.CoreV1Api(api)
    pod = core.list_namespaced_pod("default", label_selector="app=web").items[0].metadata.name
    assert core.read_namespaced_pod_log(pod, "default") == "one\ntwo\n"
    assert core.read_namespaced_pod_log(pod, "default", tail_lines=1) == "two\n"
    followed = core.read_namespaced_pod_log(pod, "default", follow=True, _preload_content=False)
    with followed:
        fake.log("three")
        text = b""
        while not text.endswith(b"three\n"):
            text += followed.read(1)
        core.delete_namespaced_pod(pod, "default", grace_period_seconds=0)
        assert followed.read() == b""
    assert text == b"one\ntwo\nthree\n"


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = self.path.encode() * 1000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def page() -> Iterator[int]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def _closed(forward: Any) -> None:
    """The client leaves its socket open when the server has closed first, which is how a port-forward ends."""
    forward.close()
    for thread in threading.enumerate():
        if thread.name.startswith("Kubernetes port forward"):
            thread.join(10)
    forward.websocket.shutdown()


def test_forwards_a_port_to_a_real_server(fake: Fake, api: client.ApiClient, page: int) -> None:
    fake.backend = ("127.0.0.1", page)
    fake.add(manifests.deployment())
    fake.wait(lambda: _available(fake))
    pod = fake.objects("Pod")[0]["metadata"]["name"]
    core = client.CoreV1Api(api)
    forward = portforward(core.connect_get_namespaced_pod_portforward, pod, "default", ports="8080,8081")
    for port in (8080, 8081):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.sock = forward.socket(port)
        connection.request("GET", f"/{port}")
        assert connection.getresponse().read() == f"/{port}".encode() * 1000
        connection.close()
        assert forward.error(port) is None
    _closed(forward)


def test_a_port_where_nothing_listens_says_so(fake: Fake, api: client.ApiClient) -> None:
    fake.add(manifests.deployment())
    fake.wait(lambda: _available(fake))
    pod = fake.objects("Pod")[0]["metadata"]["name"]
    core = client.CoreV1Api(api)
    forward = portforward(core.connect_get_namespaced_pod_portforward, pod, "default", ports="8080")
    link: socket.socket = forward.socket(8080)
    link.settimeout(5)
    assert link.recv(1) == b""
    assert "failed to connect to localhost:8080" in forward.error(8080)
    _closed(forward)
    link.close()


def test_a_pod_without_a_node_has_no_ports(fake: Fake, api: client.ApiClient) -> None:
    fake.fate = fates.unschedulable()
    fake.add(manifests.deployment())
    fake.wait(lambda: fake.objects("Pod"))
    pod = fake.objects("Pod")[0]["metadata"]["name"]
    core = client.CoreV1Api(api)
    with pytest.raises(ApiException, match="400"):
        portforward(core.connect_get_namespaced_pod_portforward, pod, "default", ports="8080")
    assert core.read_namespaced_pod_log(pod, "default") is None  # 204


def test_who_has_few_rights_is_told_so(fake: Fake, tmp_path: Path) -> None:
    with _api(fake, tmp_path, token=LIMITED) as api:
        core = client.CoreV1Api(api)
        assert core.list_namespaced_pod("default").items == []
        with pytest.raises(ApiException) as refused:
            core.list_namespaced_secret("default")
        assert refused.value.status == 403
        message = json.loads(refused.value.body)["message"]
        assert message.startswith('secrets is forbidden: User "limited" cannot list resource "secrets"')
    with _api(fake, tmp_path) as api:
        fake.deny("create", "pods/portforward")
        fake.deny("get", "deployments")
        with pytest.raises(ApiException) as refused:
            client.AppsV1Api(api).read_namespaced_deployment("web", "default")
        assert refused.value.status == 403
