"""What every run is in a cluster, and what spans several objects: probes, ports, labels, secrets, scaling."""

from __future__ import annotations

from typing import Any

import pytest

from modelserve.deploy.manifests import objects, pod
from modelserve.errors import ConfigError
from tests.deploy.manifests.made import IMAGE, Manifest, container_of, made, of_kind, pod_of, workload
from tests.deploy.manifests.rows import NAME, SELF, volume


def test_what_a_run_is_without_any_parameter() -> None:
    found = made()
    assert [one["kind"] for one in found] == ["Deployment", "Service"]
    box, spec = container_of(found), pod_of(found)
    assert (box["image"], box["command"]) == (IMAGE, ["modelserve", "serve"])
    assert box["args"] == [
        "--model_name=bert",
        "--model_id=google-bert/bert-base-uncased",
        "--http_port=8080",
        "--grpc_port=8081",
    ]
    assert [(port["name"], port["containerPort"]) for port in box["ports"]] == [("http", 8080), ("grpc", 8081)]
    assert of_kind(found, "Deployment")["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    assert spec["terminationGracePeriodSeconds"] > pod.PRE_STOP_S + 30, "the drain: --shutdown_timeout's default"
    assert {one["name"]: one for one in spec["volumes"]} == {
        "modelserve-cache": {"name": "modelserve-cache", "emptyDir": {}},
        "modelserve-tmp": {"name": "modelserve-tmp", "emptyDir": {}},
        "modelserve-shm": {"name": "modelserve-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
    }
    assert {one["mountPath"] for one in box["volumeMounts"]} == {"/cache", "/tmp", "/dev/shm"}
    variables = {one["name"]: one["value"] for one in box["env"]}
    writable = tuple(one["mountPath"] for one in box["volumeMounts"])
    assert all(variables[name].startswith(writable) for name in ("HF_HOME", "MODELSERVE_HOME", "HOME"))


def test_probes_are_three_and_none_kills_a_download() -> None:
    box = container_of(made())
    paths = {name: box[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    ready, live = "/v2/health/ready", "/v2/health/live"
    assert paths == {"startupProbe": ready, "readinessProbe": ready, "livenessProbe": live}
    startup = box["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 30 * 60


def test_the_restricted_pod_security_standard() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, and a root that is only read."""
    found = made()
    box, spec = container_of(found), pod_of(found)
    assert box["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
    }
    assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["runAsUser"]) == (True, 1000)
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC", "automountServiceAccountToken"))
    assert all("hostPath" not in one for one in spec["volumes"])


def test_scaling_is_the_autoscalers_alone() -> None:
    found = made(scaling={"min_replicas": 2, "max_replicas": 5, "target": 60}, resources={"cpu": "1"}, replicas=3)
    assert "replicas" not in of_kind(found, "Deployment")["spec"]
    spec = of_kind(found, "HorizontalPodAutoscaler")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 5)
    (metric,) = spec["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}
    queue = made(scaling={"max_replicas": 5, "target": {"modelserve_queue_size": "16"}})
    (metric,) = of_kind(queue, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"] == {
        "metric": {"name": "modelserve_queue_size"},
        "target": {"type": "AverageValue", "averageValue": "16"},
    }


def test_a_stable_service_is_the_one_seen_from_outside_and_comes_last() -> None:
    found = made(service_name="bert", service_type="LoadBalancer")
    own, stable = [one for one in found if one["kind"] == "Service"]
    assert found[-1] is stable
    assert (own["metadata"]["name"], own["spec"]["type"]) == (NAME, "ClusterIP")
    assert (stable["metadata"]["name"], stable["spec"]["type"]) == ("bert", "LoadBalancer")
    assert stable["spec"]["selector"] == own["spec"]["selector"] == SELF
    assert stable["metadata"]["labels"]["modelserve/alias"] == "true"


def test_ports_are_the_runs_everywhere() -> None:
    found = made(http_port=9000, grpc_port=9001)
    box = container_of(found)
    assert box["args"][-2:] == ["--http_port=9000", "--grpc_port=9001"]
    assert {port["port"] for port in of_kind(found, "Service")["spec"]["ports"]} == {9000, 9001}
    assert box["readinessProbe"]["httpGet"]["port"] == 9000
    notes = of_kind(found, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert (notes["prometheus.io/port"], notes["prometheus.io/path"], notes["prometheus.io/scrape"]) == (
        "9000",
        "/metrics",
        "true",
    )


def test_labels_tell_whose_it_is() -> None:
    for one in made(labels={"team": "ml", "app.kubernetes.io/part-of": "shop"}, annotations={"a/b": "c"}, replicas=2):
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == labels["app.kubernetes.io/name"] == "modelserve"
        assert labels["app.kubernetes.io/instance"] == NAME
        assert (labels["team"], labels["app.kubernetes.io/part-of"]) == ("ml", "shop")
        assert (labels["modelserve/project"], labels["modelserve/function"]) == ("demo", "bert")
        assert one["metadata"]["annotations"]["a/b"] == "c"
        assert one["metadata"]["annotations"]["modelserve/function"] == "huggingfaceserve://demo/bert:1"


def test_a_namespace_is_on_every_object() -> None:
    given: dict[str, Any] = {"namespace": "models", "service_name": "s", "disruption_budget": 1, "model_cache": "1Gi"}
    assert {one["metadata"]["namespace"] for one in made(**given, values={"A": "1"})} == {"models"}
    assert all("namespace" not in one["metadata"] for one in made())


def test_the_projects_secrets_are_in_a_secret_of_the_run() -> None:
    found = made(values={"TOKEN": "s3cret"}, envs={"TOKEN": "loses"})
    assert found[0]["kind"] == "Secret"
    assert found[0]["data"] == {"TOKEN": "czNjcmV0"}
    (variable,) = [one for one in container_of(found)["env"] if one["name"] == "TOKEN"]
    assert variable["valueFrom"] == {"secretKeyRef": {"name": NAME, "key": "TOKEN"}}
    assert "s3cret" not in repr(workload(values={"TOKEN": "s3cret"}))


def test_other_files_mean_other_pods() -> None:
    one, other = made(files={"a": "1"}), made(files={"a": "2"})
    notes = [of_kind(m, "Deployment")["spec"]["template"]["metadata"]["annotations"] for m in (one, other)]
    assert notes[0]["modelserve/files"] != notes[1]["modelserve/files"]
    assert of_kind(one, "ConfigMap")["data"] == {"a": "1"}
    (mount,) = [m for m in container_of(one)["volumeMounts"] if m["name"] == "modelserve-files"]
    assert (mount["mountPath"], mount["readOnly"]) == ("/etc/modelserve", True)


def test_a_cache_of_several_pods_is_for_several_nodes() -> None:
    found = of_kind(made(model_cache="1Gi", replicas=2), "PersistentVolumeClaim")
    assert found["spec"]["accessModes"] == ["ReadWriteMany"]
    assert "affinity" not in pod_of(made(model_cache="1Gi", replicas=2))
    own = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}}
    terms = pod_of(made(model_cache="1Gi", affinity=own))["affinity"]["podAffinity"]
    assert len(terms["requiredDuringSchedulingIgnoredDuringExecution"]) == 2, "the run's own stays"


def test_nothing_is_shared_between_runs() -> None:
    spec = workload(affinity={"nodeAffinity": {"a": [1]}}, labels={"a": "b"}, model_cache="1Gi")
    before = objects.of(spec)
    for one in objects.of(spec):
        _spoil(one)
    assert objects.of(spec) == before


def _spoil(value: Any) -> None:
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _spoil(one)
    if isinstance(value, dict | list):
        value.clear()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"path": "/srv/bert"}, "path is '/srv/bert', a place of this machine, which no pod sees"),
    ({"path": "file:///srv/bert"}, "path is 'file:///srv/bert', a place of this machine, which no pod sees"),
    ({"service_type": "ExternalName"}, "service_type is 'ExternalName', which is a name for a host elsewhere"),
    ({"volumes": [{**volume("shared_volume")[0], "name": "My Data"}]}, "the claim of a shared_volume is 'My Data'"),
    (
        {"volumes": volume("ephemeral", {"storage_class": "Fast One"})},
        "storage_class is 'Fast One'; it must be",
    ),
    ({"secrets": ["secret://"]}, "a secret is 'secret://'; it must be one of the cluster, secret://name or"),
    ({"secrets": ["secret://a/1b"]}, "a secret is 'secret://a/1b'"),
    ({"host": "127.0.0.1"}, "host is '127.0.0.1', where nobody but the pod itself asks; leave it out"),
    ({"http_port": 8081}, "http_port and grpc_port are both 8081; give each a port of its own"),
    ({"scaling": {"max_replicas": 2}}, "scaling is by the share of the requested cpu, and resources requests none"),
    ({"resources": {"gpu": {"requests": 1, "limits": 2}}}, "requests and limits of a device are the same"),
    ({"labels": {"modelserve/run": "x"}}, "labels has 'modelserve/run'; what begins with modelserve/ is"),
    ({"values": {"1a": "x"}}, "secrets has '1a', which is no variable of a pod"),
    ({"values": {"A": "x" * 2**20 + "x"}}, "secrets has more than 1 MiB (A), which no Secret holds"),
    ({"volumes": volume("empty_dir", {"medium": "disk"})}, "volumes, data: medium is 'disk'; it must be Memory"),
    (
        {"volumes": volume("persistent_volume_claim", {"claim_name": "a", "size": "1Gi"})},
        "a claim that is there (claim_name) has its size already",
    ),
    (
        {"volumes": [*volume("empty_dir"), {"volume_type": "empty_dir", "name": "b", "mount_path": "/data/"}]},
        "volumes has two at /data/",
    ),
    (
        {"volumes": [*volume("empty_dir"), {"volume_type": "ephemeral", "name": "data", "mount_path": "/b"}]},
        "volumes has two different ones called data",
    ),
    ({"template": {"labels": {"a b": "c"}}}, "a key of labels is 'a b'"),
    ({"template": {"service_ports": [{"port": "x"}]}}, "an entry of service_ports is"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_no_cluster_would_take_is_one_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as found:
        made(**given)
    assert said in found.value.message


def test_a_model_on_a_volume() -> None:
    found: list[Manifest] = made(path="/data/models/bert", volumes=volume("shared_volume"))
    assert "--model_dir=/data/models/bert" in container_of(found)["args"]
