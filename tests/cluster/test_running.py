"""A run that serves: waited for, scaled, changed in place, stopped, resumed, found again, removed with all that it has.

On a real API server and its controllers; that the pods answer is said by kubelet.py.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import modelserve as ms
from modelserve.errors import EntityNotFound, InvokeError, RunFailed, TargetError
from tests.cluster import kubelet as kubelets
from tests.cluster import places
from tests.cluster.api import Api, Json, deployments, in_namespace, pods
from tests.cluster.cluster import Cluster, Serve
from tests.cluster.kubelet import Kubelet

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]


def pods_of(api: Api, namespace: str, run: ms.Run) -> list[Json]:
    """Those that are not being removed."""
    found = api.get(pods(namespace), labelSelector=f"modelserve/run={run.id}").ok()["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def test_running_only_when_the_pods_are_ready(cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve) -> None:
    kubelet.say(kubelets.nothing)
    run = serve(replicas=2)
    assert run.refresh().state == "PENDING"
    kubelet.say(kubelets.loading)
    places.until(lambda: len(pods_of(cluster.api, namespace, run)) == 2, 30, "two pods")
    assert run.refresh().state == "PENDING"
    kubelet.say(kubelets.ready)
    assert run.wait(timeout=60, log_info=False).state == "RUNNING"
    assert run.url
    assert run.url.startswith("http://tiny-")
    assert run.url.endswith(f".{namespace}.svc:8080")


def test_scale(cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve) -> None:
    run = serve(wait=True, log_info=False)
    (first,) = pods_of(cluster.api, namespace, run)
    run.scale(3, wait=True, log_info=False, timeout=60)
    found = pods_of(cluster.api, namespace, run)
    assert len(found) == 3
    assert first["metadata"]["uid"] in {pod["metadata"]["uid"] for pod in found}
    run.scale(1, wait=True, log_info=False, timeout=60)
    places.until(lambda: len(pods_of(cluster.api, namespace, run)) == 1, 30, "one pod")
    run.update(envs={"A": "b"}, wait=True, log_info=False, timeout=60)  # after a scale, which is our own, no conflict
    assert len(pods_of(cluster.api, namespace, run)) == 1


def test_update_rolls_and_the_old_pods_stay_until_the_new_answer(
    cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve
) -> None:
    run = serve(wait=True, log_info=False, envs={"A": "old"})
    (old,) = pods_of(cluster.api, namespace, run)
    new = [True]

    def saying(pod: Json) -> kubelets.Said:
        is_new = pod["metadata"]["uid"] != old["metadata"]["uid"]
        return kubelets.loading(pod) if is_new and new[0] else kubelets.ready(pod)

    kubelet.say(saying)
    run.update(envs={"A": "new"})
    assert run.refresh().state == "PENDING"
    places.until(lambda: len(pods_of(cluster.api, namespace, run)) == 2, 30, "the new pod beside the old")
    assert run.refresh().state == "PENDING"
    assert old["metadata"]["uid"] in {pod["metadata"]["uid"] for pod in pods_of(cluster.api, namespace, run)}
    new[0] = False
    kubelet.say(lambda pod: saying(pod))
    run.wait(timeout=60, log_info=False)
    places.until(lambda: len(pods_of(cluster.api, namespace, run)) == 1, 30, "the old pod's end")
    (pod,) = pods_of(cluster.api, namespace, run)
    assert {"name": "A", "value": "new"} in pod["spec"]["containers"][0]["env"]


def test_an_update_that_cannot_start_is_said(cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve) -> None:
    run = serve(wait=True, log_info=False)
    (old,) = pods_of(cluster.api, namespace, run)
    bad = "registry.invalid/modelserve:typo"

    def saying(pod: Json) -> kubelets.Said:
        is_bad = pod["spec"]["containers"][0]["image"] == bad
        return kubelets.image_pull_back_off(pod) if is_bad else kubelets.ready(pod)

    kubelet.say(saying)
    with pytest.raises(RunFailed, match="modelserve:typo"):
        run.update(image=bad, wait=True, log_info=False, timeout=60)
    assert old["metadata"]["uid"] in {pod["metadata"]["uid"] for pod in pods_of(cluster.api, namespace, run)}
    run.update(image=cluster.image or "registry.invalid/modelserve:none", wait=True, log_info=False, timeout=60)
    assert run.state == "RUNNING"


def test_stop_keeps_the_disks_and_resume_brings_the_pods_back(
    cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve
) -> None:
    run = serve(wait=True, log_info=False, model_cache="1Gi", replicas=2)
    claims = in_namespace("v1", namespace, "persistentvolumeclaims")
    (claim,) = cluster.api.get(claims).ok()["items"]
    run.stop()
    assert run.state == "STOPPED"
    assert pods_of(cluster.api, namespace, run) == []
    (kept,) = cluster.api.get(claims).ok()["items"]
    assert kept["metadata"]["uid"] == claim["metadata"]["uid"]
    run.resume(wait=True, log_info=False, timeout=60)
    assert run.state == "RUNNING"
    assert len(pods_of(cluster.api, namespace, run)) == 2
    (kept,) = cluster.api.get(claims).ok()["items"]
    assert kept["metadata"]["uid"] == claim["metadata"]["uid"]


def test_delete_leaves_nothing_of_the_run_and_all_of_the_others(
    cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve, project: ms.Project
) -> None:
    project.new_secret("TOKEN", "s3cret")
    other = serve(wait=True, log_info=False, model_cache="1Gi", secrets=["TOKEN"])
    theirs = {"metadata": {"name": "theirs", "labels": {"app.kubernetes.io/managed-by": "modelserve"}}}
    cluster.api.create(in_namespace("v1", namespace, "configmaps"), theirs).ok()
    before = uids(cluster.api, namespace)
    run = serve(
        wait=True,
        log_info=False,
        model_cache="1Gi",
        secrets=["TOKEN"],
        replicas=2,
        envs={"A": "b"},
        service_name="named",
    )
    made = {name for name in uids(cluster.api, namespace) if name not in before}
    kinds = {kind for _, kind, _ in made}
    assert kinds >= {"Deployment", "ReplicaSet", "Pod", "Service", "Secret", "PersistentVolumeClaim"}
    run.delete()
    places.until(lambda: uids(cluster.api, namespace) == before, 60, "nothing to be left of the run")
    assert other.refresh().state == "RUNNING"
    assert ms.list_runs(target="kubernetes", **cluster.place, namespace=namespace) != []
    other.delete()
    with pytest.raises(EntityNotFound):
        other.refresh()


def test_delete_of_a_run_whose_objects_are_gone(
    cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve
) -> None:
    run = serve(wait=True, log_info=False)
    for one in cluster.api.get(deployments(namespace)).ok()["items"]:
        cluster.api.delete(deployments(namespace, one["metadata"]["name"])).ok()
    assert run.refresh().state == "ERROR"
    assert "removed" in (run.status.message or "")
    run.delete()
    assert cluster.api.everything(namespace, f"modelserve/run={run.id}") == {}


def test_a_stable_service_moves_once_the_new_run_is_ready(
    cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve
) -> None:
    def leads_to() -> str:
        found = cluster.api.get(in_namespace("v1", namespace, "services", "stable"))
        return str(found.ok()["spec"]["selector"]["modelserve/run"])

    first = serve(wait=True, log_info=False, service_name="stable")
    assert leads_to() == first.id
    kubelet.say(kubelets.loading)
    second = serve(service_name="stable")
    second.refresh()
    assert leads_to() == first.id
    kubelet.say(kubelets.ready)
    second.wait(timeout=60, log_info=False)
    assert leads_to() == second.id
    first.delete()
    assert leads_to() == second.id


def test_runs_are_found_again_when_the_store_is_lost(
    cluster: Cluster,
    namespace: str,
    kubelet: Kubelet,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    run = serve(wait=True, log_info=False, replicas=2, envs={"A": "b"})
    stopped = serve(wait=True, log_info=False)
    stopped.stop()
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path / "elsewhere"))
    found = {one.id: one for one in ms.list_runs(target="kubernetes", **cluster.place, namespace=namespace)}
    assert set(found) == {run.id, stopped.id}
    again = found[run.id]
    assert again.state == "RUNNING"
    assert again.url == run.url
    assert {one["kind"] for one in again.manifest()} == {"Deployment", "Service"}
    again.scale(1, wait=True, log_info=False, timeout=60)
    places.until(lambda: len(pods_of(cluster.api, namespace, run)) == 1, 30, "one pod")
    again.delete()
    found[stopped.id].delete()
    assert cluster.api.everything(namespace, "modelserve/run") == {}


def test_logs_of_pods_that_no_node_has(kubelet: Kubelet, serve: Serve) -> None:
    run = serve(wait=True, log_info=False)
    assert run.logs() == ""
    assert run.logs(tail=5, since=60) == ""


def test_who_asks_a_pod_that_cannot_be_reached_is_told(kubelet: Kubelet, serve: Serve) -> None:
    run = serve(wait=True, log_info=False)
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(run.predict("a"))
        except (InvokeError, TargetError) as error:
            answers.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(90)
    assert answers, "it hangs"
    assert isinstance(answers[0], InvokeError | TargetError)


def uids(api: Api, namespace: str) -> dict[tuple[str, str, str], str]:
    """Everything that is there, by what it is called, less what is on its way out."""
    return {key: one["metadata"]["uid"] for key, one in api.everything(namespace).items()}
