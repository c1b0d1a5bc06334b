"""What the fake's controllers and kubelet do where nothing is recorded, with a clock that passes only when told.

Written from Kubernetes' documentation and sources: rolling updates, quotas, autoscalers, disruption budgets, images
that cannot be pulled, init containers, claims, owners.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.kubernetes import manifests
from tests.deploy.kubernetes.asking import ask
from tests.deploy.kubernetes.fake import Fake, cluster, fates
from tests.deploy.manifests.made import made

_WEB = "/apis/apps/v1/namespaces/default/deployments/web"
_MERGE = "application/merge-patch+json"
_PROBE = {"httpGet": {"path": "/", "port": 8080}}


@pytest.fixture
def fake() -> Iterator[Fake]:
    with cluster(held=True) as found:
        yield found


def _status(fake: Fake, kind: str = "Deployment") -> Any:
    return fake.objects(kind)[0]["status"]


def _conditions(fake: Fake) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in _status(fake)["conditions"]}


def _container(fake: Fake, index: int = 0) -> Any:
    return fake.objects("Pod")[index]["status"]["containerStatuses"][0]


def _events(fake: Fake, about: str = "Pod") -> list[tuple[str, str]]:
    return [(one["reason"], one["message"]) for one in fake.objects("Event") if one["involvedObject"]["kind"] == about]


def _images(fake: Fake) -> list[str]:
    return sorted(one["spec"]["containers"][0]["image"] for one in fake.objects("Pod"))


def _new_image(fake: Fake, image: str) -> None:
    container = {"name": "c", "image": image}
    change = {"spec": {"template": {"spec": {"containers": [container | {"readinessProbe": _PROBE}]}}}}
    assert ask(fake, "PATCH", _WEB, change, _MERGE)[0] == 200


def test_a_rolling_update_never_goes_below_what_must_be_there(fake: Fake) -> None:
    found = manifests.deployment(replicas=4, readinessProbe=_PROBE)
    found["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    fake.add(found)
    fake.advance(2)
    assert _status(fake)["availableReplicas"] == 4
    _new_image(fake, "new:1")
    seen = []
    for _ in range(200):
        fake.advance(0.1)
        status = _status(fake)
        there = [one for one in fake.objects("Pod") if "deletionTimestamp" not in one["metadata"]]
        seen.append((status["availableReplicas"], len(there)))
        if status.get("updatedReplicas") == status["availableReplicas"] == 4 and len(fake.objects("Pod")) == 4:
            break
    assert min(one[0] for one in seen) == 4
    assert max(one[1] for one in seen) == 5
    assert _images(fake) == ["new:1"] * 4
    assert fake.objects("Deployment")[0]["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
    assert sorted(one["spec"]["replicas"] for one in fake.objects("ReplicaSet")) == [0, 4]


def test_an_update_that_fails_leaves_the_old_pods_and_misses_its_deadline(fake: Fake) -> None:
    fake.add(manifests.deployment(replicas=2, readinessProbe=_PROBE))
    fake.advance(2)
    fake.fates["new:1"] = fates.no_image()
    _new_image(fake, "new:1")
    fake.advance(601)
    assert _conditions(fake) == {
        "Available": ("True", "MinimumReplicasAvailable"),
        "Progressing": ("False", "ProgressDeadlineExceeded"),
    }
    assert _status(fake)["availableReplicas"] == 2
    _new_image(fake, manifests.IMAGE)
    fake.advance(5)
    assert _images(fake) == [manifests.IMAGE] * 2
    assert _conditions(fake)["Progressing"] == ("True", "NewReplicaSetAvailable")


def test_recreate_ends_the_old_pods_first(fake: Fake) -> None:
    found = manifests.deployment(replicas=2)
    found["spec"]["strategy"] = {"type": "Recreate"}
    fake.add(found)
    fake.advance(2)
    _new_image(fake, "new:1")
    seen = []
    for _ in range(40):
        fake.advance(0.1)
        seen.append(set(_images(fake)))
    assert {manifests.IMAGE, "new:1"} not in seen
    assert seen[-1] == {"new:1"}


def test_scaled_to_nothing_and_back(fake: Fake) -> None:
    fake.add(manifests.deployment(replicas=2))
    fake.advance(2)
    for replicas in (0, 3):
        ask(fake, "PATCH", f"{_WEB}/scale", {"spec": {"replicas": replicas}}, _MERGE)
        fake.advance(2)
        assert len(fake.objects("Pod")) == replicas
        assert _status(fake).get("availableReplicas", 0) == replicas
        assert _conditions(fake)["Available"][0] == "True"


def test_a_quota_leaves_a_deployment_without_pods(fake: Fake) -> None:
    fake.quota({"pods": "0", "requests.storage": "1Gi"})
    fake.add(manifests.deployment())
    fake.advance(1)
    assert fake.objects("Pod") == []
    failure = next(one for one in _status(fake)["conditions"] if one["type"] == "ReplicaFailure")
    assert (failure["status"], failure["reason"]) == ("True", "FailedCreate")
    assert failure["message"].endswith("exceeded quota: quota, requested: pods=1, used: pods=0, limited: pods=0")
    claims = "/api/v1/namespaces/default/persistentvolumeclaims"
    code, found = ask(fake, "POST", claims, manifests.claim(size="2Gi"))
    assert (code, found["reason"]) == (403, "Forbidden")
    words = "requested: requests.storage=2Gi, used: requests.storage=0, limited: requests.storage=1Gi"
    assert found["message"] == f'persistentvolumeclaims "models" is forbidden: exceeded quota: quota, {words}'
    fake.quota({"pods": "1"})
    fake.advance(20)
    assert _status(fake)["availableReplicas"] == 1
    assert "ReplicaFailure" not in _conditions(fake)


def test_a_quota_of_memory_wants_it_said(fake: Fake) -> None:
    fake.quota({"requests.memory": "1Gi"})
    fake.add(manifests.deployment())
    fake.advance(1)
    failure = next(one for one in _status(fake)["conditions"] if one["type"] == "ReplicaFailure")
    assert failure["message"].endswith("failed quota: quota: must specify requests.memory for: c")


def test_an_image_that_is_not_there_is_tried_again_until_it_is(fake: Fake) -> None:
    fake.fate = fates.no_image("no such host")
    fake.add(manifests.deployment())
    fake.advance(0.5)
    assert _container(fake)["state"] == {"waiting": {"reason": "ErrImagePull", "message": "no such host"}}
    name = fake.objects("Pod")[0]["metadata"]["name"]
    code, found = ask(fake, "GET", f"/api/v1/namespaces/default/pods/{name}/log")
    assert (code, found["message"].rpartition(": ")[2]) == (400, "image can't be pulled")
    fake.advance(2)
    assert _container(fake)["state"]["waiting"]["reason"] == "ImagePullBackOff"
    assert ("Failed", f'Failed to pull image "{manifests.IMAGE}": no such host') in _events(fake)
    fake.fate = fates.READY
    fake.advance(15)
    assert _container(fake)["ready"]


def test_a_crash_loop_counts_and_waits_ever_longer(fake: Fake) -> None:
    fake.fate = fates.crash("line", code=3, crashes=4)
    fake.add(manifests.deployment())
    states = set()
    for _ in range(120):
        fake.advance(1)
        found = _container(fake)
        states.add((found["restartCount"], *(found["state"].get("waiting") or {}).get("message", "")[:12].split()[1:2]))
        if found["restartCount"] == 2 and "waiting" in found["state"]:
            assert found["lastState"]["terminated"]["exitCode"] == 3
            assert "back-off 20s restarting failed container=c pod=" in found["state"]["waiting"]["message"]
            name = fake.objects("Pod")[0]["metadata"]["name"]
            assert ask(fake, "GET", f"/api/v1/namespaces/default/pods/{name}/log") == (200, "line\n")
            assert ask(fake, "GET", f"/api/v1/namespaces/default/pods/{name}/log?previous=true") == (200, "line\n")
    assert {(1, "10s"), (2, "20s"), (3, "40s")} <= states
    assert _container(fake)["ready"], "it has crashed often enough"


def test_previous_is_the_run_before(fake: Fake) -> None:
    fake.fate = fates.crash("first", after=0.5)
    fake.add(manifests.deployment())
    fake.advance(1)
    path = f"/api/v1/namespaces/default/pods/{fake.objects('Pod')[0]['metadata']['name']}/log"
    assert ask(fake, "GET", f"{path}?previous=true")[0] == 400
    fake.fate = fates.crash("second", after=5)
    fake.advance(2)
    assert ask(fake, "GET", path) == (200, "second\n")
    assert ask(fake, "GET", f"{path}?previous=true") == (200, "first\n")
    fake.advance(5)
    assert "terminated" in _container(fake)["state"]
    assert ask(fake, "GET", f"{path}?previous=true") == (200, "first\n")
    fake.advance(10.5)
    assert "waiting" in _container(fake)["state"]
    assert ask(fake, "GET", f"{path}?previous=true") == (200, "second\n")


@pytest.mark.parametrize("kind", ["Secret", "ConfigMap"])
def test_what_is_missing_is_told_and_healed_when_it_comes(fake: Fake, kind: str) -> None:
    field, word = ("secretKeyRef", "secret") if kind == "Secret" else ("configMapKeyRef", "configmap")
    env = [{"name": "A", "valueFrom": {field: {"name": "some", "key": "k"}}}]
    fake.add(manifests.deployment(env=env))
    fake.advance(1)
    waiting = _container(fake)["state"]["waiting"]
    assert waiting == {"reason": "CreateContainerConfigError", "message": f'{word} "some" not found'}
    fake.add({"kind": kind, "metadata": {"name": "some"}, "data": {}})
    fake.advance(1)
    assert _container(fake)["state"]["waiting"]["message"] == f"couldn't find key k in {kind} default/some"
    fake.remove(kind, "some")
    fake.add({"kind": kind, "metadata": {"name": "some"}, "data": {"k": "dg=="}})
    fake.advance(1)
    assert _container(fake)["ready"]


def test_a_volume_whose_secret_is_missing_is_not_mounted(fake: Fake) -> None:
    fake.add(manifests.deployment(spec={"volumes": [{"name": "v", "secret": {"secretName": "some"}}]}))
    fake.advance(2)
    assert _container(fake)["state"] == {"waiting": {"reason": "ContainerCreating"}}
    assert ("FailedMount", 'MountVolume.SetUp failed for volume "v" : secret "some" not found') in _events(fake)
    fake.add(manifests.secret("some", k="v"))
    fake.advance(1)
    assert _container(fake)["ready"]


def test_a_claim_is_bound_and_kept_while_a_pod_uses_it(fake: Fake) -> None:
    fake.node.binds = False
    fake.add(manifests.claim())
    volumes = {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "models"}}]}
    fake.add(manifests.deployment(spec=volumes))
    fake.advance(2)
    words = next(one["message"] for one in _status(fake, "Pod")["conditions"])
    assert words.startswith("0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.")
    fake.node.binds = True
    fake.advance(2)
    assert _status(fake, "PersistentVolumeClaim")["phase"] == "Bound"
    assert _container(fake)["ready"]
    path = "/api/v1/namespaces/default/persistentvolumeclaims/models"
    assert "deletionTimestamp" in ask(fake, "DELETE", path)[1]["metadata"]
    fake.advance(5)
    assert fake.objects("PersistentVolumeClaim")
    ask(fake, "DELETE", _WEB)
    fake.advance(5)
    assert fake.everything("default") == []


def test_an_init_container_comes_first_and_may_fail(fake: Fake) -> None:
    fake.fate = fates.crash("no space", code=28, container="download")
    fake.add(manifests.deployment(spec={"initContainers": [{"name": "download", "image": "d:1"}]}))
    fake.advance(1)
    status = _status(fake, "Pod")
    assert status["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}
    assert status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 28
    fake.fate = fates.READY
    fake.advance(15)
    assert _container(fake)["ready"]
    assert _status(fake, "Pod")["initContainerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"


def test_a_startup_probe_that_fails_too_often_ends_the_container(fake: Fake) -> None:
    fake.fate = fates.unready()
    fake.add(manifests.deployment(startupProbe=_PROBE | {"periodSeconds": 5, "failureThreshold": 4}))
    fake.advance(19)
    assert (_container(fake)["started"], _container(fake)["restartCount"]) == (False, 0)
    fake.advance(4)
    assert _container(fake)["restartCount"] == 1
    assert _container(fake)["lastState"]["terminated"]["exitCode"] == 137
    assert ("Killing", "Container c failed startup probe, will be restarted") in _events(fake)
    fake.fate = fates.READY
    fake.advance(5)
    assert _container(fake)["ready"]


def test_an_evicted_pod_is_replaced(fake: Fake) -> None:
    fake.fate = fates.evicted(after=1)
    fake.add(manifests.deployment())
    fake.advance(1.5)
    fake.fate = fates.READY
    fake.advance(2)
    phases = sorted(one["status"]["phase"] for one in fake.objects("Pod"))
    assert phases == ["Failed", "Running"]
    assert _status(fake)["availableReplicas"] == 1


def test_an_autoscaler_follows_the_load(fake: Fake) -> None:
    fake.add(manifests.deployment(replicas=2))
    spec = {"maxReplicas": 5, "minReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}
    fake.add({"kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"}, "spec": spec})
    fake.advance(20)
    conditions = {one["type"]: one["reason"] for one in _status(fake, "HorizontalPodAutoscaler")["conditions"]}
    assert conditions["ScalingActive"] == "FailedGetResourceMetric"
    fake.load(2.0)
    fake.advance(5)
    assert fake.objects("Deployment")[0]["spec"]["replicas"] == 4
    fake.load(0.1)
    fake.advance(20)
    assert fake.objects("Deployment")[0]["spec"]["replicas"] == 1
    fake.load(9)
    fake.advance(60)
    assert fake.objects("Deployment")[0]["spec"]["replicas"] == 5
    entry = fake.objects("Deployment")[0]["metadata"]["managedFields"][-1]
    assert (entry["manager"], entry["subresource"]) == ("kube-controller-manager", "scale")


def test_a_disruption_budget_counts_the_healthy(fake: Fake) -> None:
    fake.add(manifests.deployment(replicas=3))
    spec = {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}
    fake.add({"kind": "PodDisruptionBudget", "metadata": {"name": "web"}, "spec": spec})
    fake.advance(2)
    status = _status(fake, "PodDisruptionBudget")
    assert (status["currentHealthy"], status["desiredHealthy"], status["disruptionsAllowed"]) == (3, 2, 1)


def test_a_load_balancer_gets_its_address_later(fake: Fake) -> None:
    fake.add(manifests.service(type="LoadBalancer"))
    assert _status(fake, "Service") == {"loadBalancer": {}}
    fake.advance(1)
    assert _status(fake, "Service")["loadBalancer"]["ingress"][0]["ip"]


def test_what_is_owned_goes_with_its_owner_and_orphans_stay(fake: Fake) -> None:
    fake.add(manifests.deployment())
    fake.advance(2)
    ask(fake, "DELETE", f"{_WEB}?propagationPolicy=Foreground")
    fake.advance(0.1)
    assert fake.objects("Deployment"), "it waits for its pods"
    fake.advance(3)
    assert fake.everything("default") == []
    fake.add(manifests.deployment())
    fake.advance(2)
    ask(fake, "DELETE", _WEB, {"propagationPolicy": "Orphan"})
    fake.advance(3)
    assert [one["kind"] for one in fake.everything("default")] == ["Pod", "ReplicaSet"]


def test_a_namespace_takes_all_with_it(fake: Fake) -> None:
    fake.namespace("team")
    for manifest in (manifests.deployment(), manifests.service(), manifests.claim(), manifests.secret(a="b")):
        fake.add(manifest, "team")
    fake.advance(2)
    ask(fake, "DELETE", "/api/v1/namespaces/team")
    fake.advance(5)
    assert fake.everything("team") == []
    assert ask(fake, "GET", "/api/v1/namespaces/team")[0] == 404


def test_groups_that_are_not_installed_are_not_there(fake: Fake) -> None:
    metrics = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods"
    serving = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices"
    for path in (metrics, serving):
        assert ask(fake, "GET", path) == (404, "404 page not found\n")
    fake.install("metrics.k8s.io", "serving.kserve.io")
    fake.add(manifests.deployment())
    fake.advance(2)
    items = ask(fake, "GET", metrics)[1]["items"]
    assert items[0]["containers"] == [{"name": "c", "usage": {"cpu": "100m", "memory": "128Mi"}}]
    model = {"modelFormat": {"name": "modelserve"}, "storageUri": "hf://a/b"}
    manifest = {
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "m"},
        "spec": {"predictor": {"model": model}},
    }  # fmt: skip
    assert ask(fake, "PATCH", f"{serving}/m?fieldManager=t", manifest, "application/apply-patch+yaml")[0] == 201
    manifest["spec"] = {"predictor": {"modell": model}}
    assert ask(fake, "PATCH", f"{serving}/m?fieldManager=t", manifest, "application/apply-patch+yaml")[0] == 500


def test_an_inference_service_becomes_a_deployment_and_is_ready_when_it_is(fake: Fake) -> None:
    fake.install("serving.kserve.io")
    fake.fate = fates.unready()
    serving, runtime = made(flavor="kserve", replicas=2)[-1], made(flavor="kserve", replicas=2)[0]
    fake.add(serving)
    fake.advance(1)
    assert _serving(fake)["PredictorReady"]["reason"] == "RuntimeNotRecognized"
    fake.add(runtime)
    fake.advance(5)
    assert _serving(fake)["Ready"]["reason"] == "MinimumReplicasUnavailable"
    fake.fate = fates.READY
    fake.advance(5)
    assert _serving(fake)["Ready"]["status"] == "True"
    name = serving["metadata"]["name"]
    assert _status(fake, "InferenceService")["address"]["url"] == f"http://{name}-predictor.default.svc.cluster.local"
    pods = fake.objects("Pod")
    assert len(pods) == 2
    assert pods[0]["spec"]["containers"][0]["args"] == serving["spec"]["predictor"]["model"]["args"]
    assert serving["metadata"]["labels"].items() <= pods[0]["metadata"]["labels"].items()
    versions = {one["metadata"]["resourceVersion"] for one in fake.everything("default")}
    fake.advance(100)
    assert versions == {one["metadata"]["resourceVersion"] for one in fake.everything("default")}, "at rest"
    ask(fake, "DELETE", f"/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices/{name}")
    fake.advance(5)
    assert [one["kind"] for one in fake.everything("default")] == ["ServingRuntime"]


def _serving(fake: Fake) -> Any:
    return {one["type"]: one for one in _status(fake, "InferenceService")["conditions"]}
