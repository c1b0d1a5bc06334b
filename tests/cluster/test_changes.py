"""A run that is changed in place, by us and by others: what is ours goes and comes, what is theirs stays.

Needs no nodes; where pods must answer, kubelet.py says that they do.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

import modelserve as ms
from modelserve.errors import RunFailed, TargetError
from tests.cluster import kubelet as kubelets
from tests.cluster import places
from tests.cluster.api import Api, Json, deployments, in_namespace
from tests.cluster.cluster import Cluster, Serve
from tests.cluster.kubelet import Kubelet

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]


def deployment(api: Api, namespace: str, run: ms.Run) -> Json:
    (one,) = api.get(deployments(namespace), labelSelector=f"modelserve/run={run.id}").ok()["items"]
    found: Json = one
    return found


def pod_spec(api: Api, namespace: str, run: ms.Run) -> Json:
    spec: Json = deployment(api, namespace, run)["spec"]["template"]["spec"]
    return spec


def names(api: Api, namespace: str, plural: str, run: ms.Run) -> set[str]:
    listed = api.get(in_namespace("v1", namespace, plural), labelSelector=f"modelserve/run={run.id}").ok()
    return {one["metadata"]["name"] for one in listed["items"]}


FULL: dict[str, Any] = {
    "envs": {"A": "b", "C": "d"},
    "node_selector": {"pool": "a"},
    "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}],
    "resources": {"cpu": {"requests": "1"}, "mem": {"requests": "1Gi", "limits": "2Gi"}},
    "volumes": [
        {"volume_type": "empty_dir", "name": "scratch", "mount_path": "/scratch", "spec": {}},
        {"volume_type": "persistent_volume_claim", "name": "data", "mount_path": "/data", "spec": {"size": "1Gi"}},
    ],
    "labels": {"team": "ml", "stays": "yes"},
    "annotations": {"example.com/note": "text"},
}


def test_what_is_taken_out_is_gone_and_disks_stay(
    cluster: Cluster, namespace: str, serve: Serve, parameters: dict[str, Any]
) -> None:
    always = parameters.get("volumes", [])  # what brings the model to the nodes
    run = serve(**FULL | {"volumes": [*always, *FULL["volumes"]]})
    before = pod_spec(cluster.api, namespace, run)
    assert before["nodeSelector"]["pool"] == "a"
    claims = names(cluster.api, namespace, "persistentvolumeclaims", run)
    assert len(claims) == 1
    taken_out = dict.fromkeys(FULL)
    run.update(**taken_out | {"envs": {"C": "e"}, "labels": {"stays": "yes"}, "volumes": always or None})
    found = deployment(cluster.api, namespace, run)
    spec = found["spec"]["template"]["spec"]
    container = spec["containers"][0]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert "A" not in variables
    assert variables["C"] == "e"
    assert "pool" not in spec.get("nodeSelector", {})
    assert "tolerations" not in spec
    assert container.get("resources", {}) == {}
    assert not {"scratch", "data"} & {volume["name"] for volume in spec["volumes"]}
    for metadata in (found["metadata"], found["spec"]["template"]["metadata"]):
        assert "team" not in metadata["labels"]
        assert metadata["labels"]["stays"] == "yes"
        assert "example.com/note" not in metadata["annotations"]
    assert names(cluster.api, namespace, "persistentvolumeclaims", run) == claims
    run.delete()
    places.until(lambda: not names(cluster.api, namespace, "persistentvolumeclaims", run), 30, "the disk's end")


def test_a_secret_comes_with_an_update_and_goes_with_another(
    cluster: Cluster, namespace: str, serve: Serve, project: ms.Project
) -> None:
    project.new_secret("TOKEN", "s3cret")
    run = serve()
    assert names(cluster.api, namespace, "secrets", run) == set()
    run.update(secrets=["TOKEN"])
    (secret,) = names(cluster.api, namespace, "secrets", run)
    kept = cluster.api.get(in_namespace("v1", namespace, "secrets", secret)).ok()
    assert kept["data"] == {"TOKEN": "czNjcmV0"}
    assert "s3cret" not in str(deployment(cluster.api, namespace, run))
    assert "czNjcmV0" not in str(run.manifest())
    run.update(secrets=None)
    assert names(cluster.api, namespace, "secrets", run) == set()
    assert "TOKEN" not in str(pod_spec(cluster.api, namespace, run))


def test_a_dry_run_of_an_update_changes_nothing(cluster: Cluster, namespace: str, serve: Serve) -> None:
    run = serve(envs={"A": "b"})
    before = deployment(cluster.api, namespace, run)["metadata"]["generation"]
    asked = run.update(envs={"A": "c"}, dry_run=True)
    (would_be,) = (one for one in asked if one["kind"] == "Deployment")
    assert {"name": "A", "value": "c"} in would_be["spec"]["template"]["spec"]["containers"][0]["env"]
    assert deployment(cluster.api, namespace, run)["metadata"]["generation"] == before
    assert "c" not in str(run.refresh().spec.envs)


def test_an_update_that_the_server_refuses_changes_nothing(cluster: Cluster, namespace: str, serve: Serve) -> None:
    run = serve(envs={"A": "b"})
    before = deployment(cluster.api, namespace, run)
    with pytest.raises(TargetError, match="priorityClassName"):
        run.update(envs={"A": "c"}, priority_class="no/such", model_cache="1Gi")
    assert names(cluster.api, namespace, "persistentvolumeclaims", run) == set()
    assert deployment(cluster.api, namespace, run)["metadata"]["generation"] == before["metadata"]["generation"]
    run.update(envs={"A": "d"})
    assert {"name": "A", "value": "d"} in pod_spec(cluster.api, namespace, run)["containers"][0]["env"]


def test_what_others_add_stays(cluster: Cluster, namespace: str, serve: Serve) -> None:
    """kubectl annotate, kubectl label, kubectl rollout restart, and a sidecar that an operator's apply has added."""
    run = serve(envs={"A": "b"})
    path = deployments(namespace, deployment(cluster.api, namespace, run)["metadata"]["name"])
    restarted = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    theirs = {
        "metadata": {"annotations": {"example.com/theirs": "1"}, "labels": {"theirs": "1"}},
        "spec": {"template": {"metadata": {"annotations": restarted}}},
    }
    cluster.api.merge(path, theirs, fieldManager="kubectl-annotate").ok()
    name = path.rpartition("/")[2]
    sidecar = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"template": {"spec": {"containers": [{"name": "sidecar", "image": "registry.invalid/sidecar:1"}]}}},
    }
    cluster.api.ask(
        "PATCH", path, {"fieldManager": "operator"}, yaml.safe_dump(sidecar), "application/apply-patch+yaml"
    ).ok()
    run.update(envs={"A": "c"})
    after = deployment(cluster.api, namespace, run)
    assert after["metadata"]["annotations"]["example.com/theirs"] == "1"
    assert after["metadata"]["labels"]["theirs"] == "1"
    assert after["spec"]["template"]["metadata"]["annotations"].items() >= restarted.items()
    assert {one["name"] for one in after["spec"]["template"]["spec"]["containers"]} == {"modelserve", "sidecar"}
    (manifest,) = (one for one in run.manifest() if one["kind"] == "Deployment")
    assert [one["name"] for one in manifest["spec"]["template"]["spec"]["containers"]] == ["modelserve"]
    assert "theirs" not in str(manifest)


def test_who_scales_with_kubectl_is_heard(cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve) -> None:
    run = serve(wait=True, log_info=False)
    path = deployments(namespace, deployment(cluster.api, namespace, run)["metadata"]["name"])
    cluster.api.merge(f"{path}/scale", {"spec": {"replicas": 2}}, fieldManager="kubectl").ok()
    run.wait(timeout=60, log_info=False)
    assert deployment(cluster.api, namespace, run)["spec"]["replicas"] == 2
    run.update(envs={"A": "b"}, wait=True, timeout=60, log_info=False)
    assert deployment(cluster.api, namespace, run)["spec"]["replicas"] == 2
    run.scale(3, wait=True, timeout=60, log_info=False)
    run.update(envs={"A": "c"}, wait=True, timeout=60, log_info=False)
    assert deployment(cluster.api, namespace, run)["spec"]["replicas"] == 3


def test_who_scales_to_zero_is_heard_too(cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve) -> None:
    run = serve(wait=True, log_info=False)
    path = deployments(namespace, deployment(cluster.api, namespace, run)["metadata"]["name"])
    cluster.api.merge(f"{path}/scale", {"spec": {"replicas": 0}}, fieldManager="kubectl").ok()
    places.until(lambda: "scaled it to zero" in (run.refresh().status.message or ""), 30, "it to be seen")
    assert run.state != "RUNNING"
    run.stop()
    run.resume(wait=True, timeout=60, log_info=False)
    assert run.state == "RUNNING"
    assert deployment(cluster.api, namespace, run)["spec"]["replicas"] == 1


def test_who_removes_it_while_somebody_waits(cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve) -> None:
    kubelet.say(kubelets.loading)
    run = serve()
    path = deployments(namespace, deployment(cluster.api, namespace, run)["metadata"]["name"])
    cluster.api.delete(path).ok()
    with pytest.raises(RunFailed, match="removed"):
        run.wait(timeout=60, log_info=False)


def test_a_namespace_that_is_gone_is_no_hindrance_to_a_delete(
    cluster: Cluster, serve: Serve, project: ms.Project
) -> None:
    with places.namespace(cluster.api) as name:
        run = serve(namespace=name)
    places.gone(cluster.api, [name])
    assert run.refresh().state == "ERROR"
    run.delete()
    assert project.list_runs() == []


def test_a_project_is_deleted_with_its_runs(
    cluster: Cluster, namespace: str, serve: Serve, project: ms.Project
) -> None:
    serve(model_cache="1Gi")
    serve()
    project.delete()
    places.until(lambda: not cluster.api.everything(namespace, "modelserve/run"), 60, "the runs' end")


def test_a_service_of_somebody_else_is_not_taken(
    cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve
) -> None:
    theirs = {"metadata": {"name": "theirs"}, "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]}}
    cluster.api.create(in_namespace("v1", namespace, "services"), theirs).ok()
    before = set(cluster.api.everything(namespace))
    with pytest.raises(TargetError, match="theirs"):
        serve(service_name="theirs")
    assert set(cluster.api.everything(namespace)) == before


def test_the_ports_of_every_node(cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve) -> None:
    run = serve(service_type="NodePort", wait=True, log_info=False)
    (service,) = cluster.api.get(in_namespace("v1", namespace, "services")).ok()["items"]
    given = {one["name"]: one["nodePort"] for one in service["spec"]["ports"]}
    assert {one["name"]: one["nodePort"] for one in run.status.service["ports"]} == given
    run.update(envs={"A": "b"}, wait=True, timeout=60, log_info=False)
    (service,) = cluster.api.get(in_namespace("v1", namespace, "services")).ok()["items"]
    assert {one["name"]: one["nodePort"] for one in service["spec"]["ports"]} == given  # which callers know
    run.update(service_type=None, wait=True, timeout=60, log_info=False)
    (service,) = cluster.api.get(in_namespace("v1", namespace, "services")).ok()["items"]
    assert service["spec"]["type"] == "ClusterIP"
