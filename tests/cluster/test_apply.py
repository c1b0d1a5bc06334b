"""Runs are applied to a real API server: what is there then, what another has set, what is refused, what is only asked.

Needs no nodes. What the server holds is read by the suite's own requests.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import modelserve as ms
from modelserve.errors import ConfigError, ModelServeError, RunFailed, TargetError
from tests.cluster import places
from tests.cluster.access import as_user, write
from tests.cluster.api import APPLY, Api, Json, deployments, in_namespace
from tests.cluster.cluster import Cluster, Serve

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def of_run(api: Api, namespace: str, run: ms.Run) -> dict[tuple[str, str], Json]:
    """By (kind, name): what has the run's label."""
    found = api.everything(namespace, f"modelserve/run={run.id}")
    return {(kind, name): one for (_, kind, name), one in found.items()}


def deployment(api: Api, namespace: str, run: ms.Run) -> Json:
    (one,) = api.get(deployments(namespace), labelSelector=f"modelserve/run={run.id}").ok()["items"]
    found: Json = one
    return found


def test_a_run_is_its_objects_with_our_name_on_every_field(cluster: Cluster, namespace: str, serve: Serve) -> None:
    run = serve(envs={"A": "b"}, model_cache="1Gi", disruption_budget=None)
    objects = of_run(cluster.api, namespace, run)
    kinds = {kind for kind, _ in objects} - {"ReplicaSet", "Pod", "Endpoints", "EndpointSlice"}
    assert kinds == {"Deployment", "Service", "PersistentVolumeClaim"}
    manifests = run.manifest()
    assert {one["kind"] for one in manifests} == kinds
    for manifest in manifests:
        there = objects[manifest["kind"], manifest["metadata"]["name"]]
        own = [one for one in there["metadata"]["managedFields"] if one["manager"] == "modelserve"]
        assert [one["operation"] for one in own] == ["Apply"]
        assert contains(there, manifest), manifest["kind"]


def test_what_was_applied_can_be_applied_by_kubectl_too(cluster: Cluster, namespace: str, serve: Serve) -> None:
    """run.manifest() is YAML for the same field manager: applied again it changes nothing."""
    run = serve()
    for manifest in run.manifest():
        version, name = manifest["apiVersion"], manifest["metadata"]["name"]
        plural = f"{manifest['kind'].lower()}s"
        path = in_namespace(version, namespace, plural, name)
        before = cluster.api.get(path).ok()
        answer = cluster.api.ask("PATCH", path, {"fieldManager": "modelserve"}, yaml.safe_dump(manifest), APPLY)
        assert answer.status == 200, answer.text
        assert answer.json["metadata"].get("generation") == before["metadata"].get("generation")


def test_an_update_that_changes_nothing_makes_no_pods(cluster: Cluster, namespace: str, serve: Serve) -> None:
    run = serve(envs={"A": "b"})
    before = deployment(cluster.api, namespace, run)
    run.update(envs={"A": "b"})
    after = deployment(cluster.api, namespace, run)
    assert after["spec"] == before["spec"]
    run.update(envs={"A": "c"})
    changed = deployment(cluster.api, namespace, run)
    assert {"name": "A", "value": "c"} in changed["spec"]["template"]["spec"]["containers"][0]["env"]
    assert changed["metadata"]["uid"] == before["metadata"]["uid"]


def test_what_another_has_set_is_not_overwritten(cluster: Cluster, namespace: str, serve: Serve) -> None:
    run = serve(envs={"A": "b"})
    there = deployment(cluster.api, namespace, run)
    theirs = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": there["metadata"]["name"]},
        "spec": {"progressDeadlineSeconds": 77, "minReadySeconds": 7},
    }
    path = deployments(namespace, there["metadata"]["name"])
    query = {"fieldManager": "somebody", "force": "true"}
    cluster.api.ask("PATCH", path, query, yaml.safe_dump(theirs), APPLY).ok()
    with pytest.raises(TargetError, match="somebody") as refused:
        run.update(envs={"A": "c"})
    assert "progressDeadlineSeconds" in refused.value.message
    kept = cluster.api.get(path).ok()["spec"]
    assert (kept["progressDeadlineSeconds"], kept["minReadySeconds"]) == (77, 7)
    assert {"name": "A", "value": "b"} in kept["template"]["spec"]["containers"][0]["env"]
    run.update(envs={"A": "c"}, force=True)
    taken = cluster.api.get(path).ok()["spec"]
    assert taken["progressDeadlineSeconds"] == there["spec"]["progressDeadlineSeconds"]
    assert taken["minReadySeconds"] == 7  # what we do not set stays theirs
    assert {"name": "A", "value": "c"} in taken["template"]["spec"]["containers"][0]["env"]


def test_a_dry_run_asks_the_server_and_leaves_nothing(
    cluster: Cluster, namespace: str, function: ms.Function, parameters: dict[str, Any]
) -> None:
    before = set(cluster.api.everything(namespace))
    asked = function.manifest(action="serve", dry_run=True, model_cache="1Gi", **parameters)
    assert {one["kind"] for one in asked} == {"Deployment", "Service", "PersistentVolumeClaim"}
    (service,) = (one for one in asked if one["kind"] == "Service")
    assert service["spec"]["sessionAffinity"] == "None"  # which only the server says
    assert set(cluster.api.everything(namespace)) == before
    with pytest.raises(TargetError, match="priority"):
        function.manifest(action="serve", dry_run=True, **parameters, labels={"a": "b"}, priority_class="no/such")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"resources": {"cpu": {"requests": "2", "limits": "1"}}}, "cpu"),
        ({"tolerations": [{"key": "a", "operator": "Sometimes"}]}, "operator"),
    ],
)
def test_what_the_server_finds_wrong_is_said_and_nothing_is_left(
    cluster: Cluster, namespace: str, serve: Serve, wrong: dict[str, Any], said: str
) -> None:
    before = set(cluster.api.everything(namespace))
    with pytest.raises((TargetError, ConfigError), match=said):
        serve(**wrong, model_cache="1Gi")
    assert set(cluster.api.everything(namespace)) == before


def test_a_kind_that_the_server_does_not_know(cluster: Cluster, namespace: str, serve: Serve) -> None:
    """autoscaling/v2 came with 1.23, policy/v1 with 1.21, and KServe is nobody's part."""
    before = set(cluster.api.everything(namespace))
    versions = {version for version, _, _ in cluster.api.kinds()}
    groups = {version.partition("/")[0] for version in versions}
    wanted = {"scaling": "autoscaling/v2", "flavor": "serving.kserve.io", "disruption_budget": "policy/v1"}
    asked: dict[str, Any] = {
        "scaling": {"min_replicas": 1, "max_replicas": 2},
        "flavor": "kserve",
        "disruption_budget": 1,
    }
    unknown = {name: version for name, version in wanted.items() if version not in versions | groups}
    if not unknown:
        pytest.skip(f"the cluster knows {', '.join(wanted.values())}")
    for name, version in unknown.items():
        with pytest.raises(TargetError, match=version):
            serve(**{name: asked[name]}, resources={"cpu": "1"}, replicas=None if name == "scaling" else 2)
        assert set(cluster.api.everything(namespace)) == before


READ_ONLY = [{"apiGroups": ["", "apps"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]
NO_SERVICES = [
    *READ_ONLY,
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["*"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]},
]


@pytest.mark.parametrize(
    ("rules", "kind"), [([], "deployments"), (READ_ONLY, "deployments"), (NO_SERVICES, "services")]
)
def test_who_may_not_is_told_what_and_nothing_is_left(
    cluster: Cluster, namespace: str, serve: Serve, tmp_path: Path, rules: list[Json], kind: str
) -> None:
    token = places.user(cluster.api, namespace, "stranger", rules)
    kubeconfig = as_user(cluster, {"token": token}, tmp_path)
    before = set(cluster.api.everything(namespace))
    with pytest.raises(TargetError, match="stranger") as refused:
        serve(kubeconfig=str(kubeconfig), context="other")
    assert "forbidden" in refused.value.message
    assert kind in refused.value.message
    assert set(cluster.api.everything(namespace)) == before


def test_a_token_that_nobody_knows(cluster: Cluster, serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="401"):
        serve(kubeconfig=str(as_user(cluster, {"token": "wrong"}, tmp_path)), context="other")


def test_a_namespace_that_is_not_there(serve: Serve) -> None:
    with pytest.raises(TargetError, match="modelserve-test-not-there"):
        serve(namespace="modelserve-test-not-there")


def test_a_namespace_that_is_being_removed(cluster: Cluster, serve: Serve) -> None:
    with places.namespace(cluster.api) as name:
        held = {"metadata": {"name": "held", "finalizers": ["modelserve.test/held"]}}
        path = in_namespace("v1", name, "configmaps", "held")
        cluster.api.create(in_namespace("v1", name, "configmaps"), held).ok()
        cluster.api.delete(f"/api/v1/namespaces/{name}").ok()
        try:
            with pytest.raises(TargetError, match="being removed"):
                serve(namespace=name)
        finally:
            cluster.api.merge(path, {"metadata": {"finalizers": None}}).ok()


def test_a_cluster_that_is_not_there_is_said_within_seconds(serve: Serve, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        kubeconfig = write(tmp_path, {"server": f"https://127.0.0.1:{closed.getsockname()[1]}"}, {"token": "a"})
        begun = time.monotonic()
        with pytest.raises(TargetError, match="does not answer"):
            serve(kubeconfig=str(kubeconfig), context="other")
    assert time.monotonic() - begun < 60


def test_over_quota_the_clusters_words_are_said(cluster: Cluster, namespace: str, serve: Serve) -> None:
    """A ReplicaSet that may make no pods: nothing else tells of it."""
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    cluster.api.create(in_namespace("v1", namespace, "resourcequotas"), quota).ok()
    path = in_namespace("v1", namespace, "resourcequotas", "none")
    places.until(lambda: cluster.api.get(path).ok()["status"].get("hard"), 30, "the quota to be counted")
    run = serve()
    with pytest.raises(RunFailed, match="exceeded quota"):
        run.wait(timeout=60, log_info=False)
    assert run.state == "ERROR"
    run.delete()


def test_a_quota_of_disks_refuses_the_run_itself(cluster: Cluster, namespace: str, serve: Serve) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"persistentvolumeclaims": "0"}}}
    cluster.api.create(in_namespace("v1", namespace, "resourcequotas"), quota).ok()
    path = in_namespace("v1", namespace, "resourcequotas", "none")
    places.until(lambda: cluster.api.get(path).ok()["status"].get("hard"), 30, "the quota to be counted")
    before = set(cluster.api.everything(namespace))
    with pytest.raises(ModelServeError, match="exceeded quota"):
        serve(model_cache="1Gi")
    assert set(cluster.api.everything(namespace)) == before


def contains(there: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there, as the server may write it otherwise: 1000m is 1."""
    if isinstance(wanted, dict) and isinstance(there, dict):
        return all(key in there and contains(there[key], value) for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(there, list):
        return len(wanted) == len(there) and all(contains(*pair) for pair in zip(there, wanted, strict=True))
    return bool(there == wanted)
