"""Who asks, and with which rights: an account with few of them, tokens that expire, a context's own namespace, pages.

Needs no nodes; where pods must answer, kubelet.py says that they do.
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import pytest
import yaml

import modelserve as ms
from modelserve.deploy.kubernetes import cluster as sdk
from tests.cluster import places
from tests.cluster.access import as_user, written
from tests.cluster.cluster import Cluster, Serve
from tests.cluster.kubelet import Kubelet

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]

EVERY = ["get", "list", "watch", "create", "patch", "delete"]
FEW = [
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": EVERY},
    {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get", "patch"]},
    {"apiGroups": [""], "resources": ["services", "persistentvolumeclaims", "secrets"], "verbs": EVERY},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
]
"""What a life without autoscalers, disruption budgets, config maps and KServe needs; no events are read."""


def test_a_life_with_few_rights(
    cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve, project: ms.Project, tmp_path: Path
) -> None:
    project.new_secret("TOKEN", "s3cret")
    token = places.user(cluster.api, namespace, "few", FEW)
    kubeconfig = str(as_user(cluster, {"token": token}, tmp_path))
    before = set(cluster.api.everything(namespace))
    run = serve(kubeconfig=kubeconfig, context="other", model_cache="1Gi", secrets=["TOKEN"])
    run.wait(timeout=60, log_info=False)
    run.scale(2, wait=True, timeout=60, log_info=False)
    run.update(envs={"A": "b"}, wait=True, timeout=60, log_info=False)
    assert {one["kind"] for one in run.manifest()} == {"Deployment", "Service", "PersistentVolumeClaim"}
    assert run.logs() == ""
    run.stop()
    run.resume(wait=True, timeout=60, log_info=False)
    run.delete()
    places.until(lambda: set(cluster.api.everything(namespace)) == before, 60, "nothing to be left of the run")


def test_a_program_gives_tokens_and_is_asked_again_when_one_expires(
    cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve, tmp_path: Path
) -> None:
    """As clouds' kubeconfigs do."""
    token = places.user(cluster.api, namespace, "few", FEW)
    asked, given = tmp_path / "asked", tmp_path / "given"
    given.write_text(token, encoding="utf-8")
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import datetime, json
with open({str(asked)!r}, "a") as asked:
    asked.write("x")
until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
status = {{"token": open({str(given)!r}).read(), "expirationTimestamp": until.strftime("%Y-%m-%dT%H:%M:%SZ")}}
print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}}))
""",
        encoding="utf-8",
    )
    version = "client.authentication.k8s.io/v1"
    program_of = {"apiVersion": version, "command": sys.executable, "args": [str(program)], "interactiveMode": "Never"}
    run = serve(kubeconfig=str(as_user(cluster, {"exec": program_of}, tmp_path)), context="other")
    run.wait(timeout=60, log_info=False)
    times = len(asked.read_text())
    assert times >= 1
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
    places.until(lambda: datetime.datetime.now(datetime.UTC) > later, 10, "its end")
    assert run.refresh().state == "RUNNING"
    assert len(asked.read_text()) > times
    run.delete()


def test_a_token_in_a_file_is_read_again(
    cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve, tmp_path: Path
) -> None:
    """As a pod's account has it, whose token is another one every hour."""
    token = places.user(cluster.api, namespace, "few", FEW)
    file = tmp_path / "token"
    file.write_text(token, encoding="utf-8")
    run = serve(kubeconfig=str(as_user(cluster, {"tokenFile": str(file)}, tmp_path)), context="other")
    run.wait(timeout=60, log_info=False)
    run.delete()


def test_the_namespace_of_the_context(cluster: Cluster, namespace: str, serve: Serve, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "here.kubeconfig"
    said = yaml.safe_load(written(cluster, tmp_path).read_text(encoding="utf-8"))
    said["contexts"][0]["context"]["namespace"] = namespace
    kubeconfig.write_text(yaml.safe_dump(said), encoding="utf-8")
    run = serve(kubeconfig=str(kubeconfig), context=None, namespace=None)
    assert {one["metadata"]["namespace"] for one in run.manifest()} == {namespace}
    assert cluster.api.everything(namespace, f"modelserve/run={run.id}")
    (found,) = ms.list_runs(target="kubernetes", kubeconfig=str(kubeconfig))
    assert found.id == run.id
    run.delete()


def test_lists_that_come_in_pages(
    cluster: Cluster,
    namespace: str,
    kubelet: Kubelet,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(sdk, "_PAGE", 1)
    ids = {serve(replicas=2).wait(timeout=60, log_info=False).id for _ in range(3)}
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path / "elsewhere"))
    found = ms.list_runs(target="kubernetes", **cluster.place, namespace=namespace)
    assert {run.id for run in found} == ids
    for run in found:
        run.delete()
    assert cluster.api.everything(namespace, "modelserve/run") == {}
