"""The life of a run in a cluster, over real HTTP: made, looked at, changed, stopped, started again, removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import modelserve as ms
from modelserve import registry
from modelserve.errors import ConfigError, TargetError, TargetRefused
from tests.deploy.kubernetes import manifests
from tests.deploy.kubernetes.conftest import move
from tests.deploy.kubernetes.fake import Fake, fates

CLUSTER = "kubernetes"
WAIT_S = 30


def serve(function: ms.Function, **given: Any) -> ms.Run:
    return function.run("serve", target=CLUSTER, **given)


def running(function: ms.Function, **given: Any) -> ms.Run:
    return serve(function, wait=True, timeout=WAIT_S, log_info=False, **given)


def kinds(fake: Fake, *apart: str) -> list[str]:
    """Of all that is there, but for what controllers have made."""
    found = {one["kind"] for one in fake.everything("default")}
    return sorted(found - {"Pod", "ReplicaSet", *apart})


def only(fake: Fake, kind: str) -> dict[str, Any]:
    (found,) = fake.objects(kind)
    return dict(found)


def test_from_nothing_to_nothing(fake: Fake, bert: ms.Function) -> None:
    """Every kind that a run can have; what others have stays."""
    fake.add({"kind": "Secret", "metadata": {"name": "others", "labels": {"app.kubernetes.io/name": "modelserve"}}})
    ms.get_project("demo").new_secret("HF_TOKEN", "s3cret")
    run = running(
        bert,
        replicas=2,
        secrets=["HF_TOKEN"],
        model_cache="1Gi",
        volumes=[{"volume_type": "persistent_volume_claim", "name": "data", "mount_path": "/data", "spec": {}}],
        scaling={"min_replicas": 2, "max_replicas": 3, "target": {"cpu": 80}},
        resources={"cpu": "1", "mem": "1Gi"},
        disruption_budget=1,
        service_name="bert",
        chat_template="{{ messages }}",
    )
    assert run.state == "RUNNING"
    assert kinds(fake) == [
        "Deployment",
        "HorizontalPodAutoscaler",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Secret",
        "Service",
    ]
    assert {one["metadata"]["name"] for one in fake.objects("Service")} == {"bert", f"bert-{run.id[:12]}"}
    run.delete()
    assert run.state == "DELETED"
    assert [one["metadata"]["name"] for one in fake.everything("default")] == ["others"]
    assert ms.list_runs() == []


def test_the_state_is_what_the_cluster_says(fake: Fake, bert: ms.Function) -> None:
    fake.fate = fates.unready("loading")
    run = serve(bert, replicas=2)
    assert run.state == "PENDING"
    fake.wait(lambda: [one for one in fake.objects("Pod") if one["status"].get("phase") == "Running"])
    assert run.refresh().state == "PENDING"
    assert "0 of 2 pods answer" in run.status.message or "Startup probe failed" in run.status.message
    with pytest.raises(ms.WaitTimeout, match=r"is still PENDING after 0.2 s, loading, 0 of 2 pods answer"):
        run.wait(timeout=0.2, log_info=False)
    fake.fate = fates.READY
    run.wait(timeout=WAIT_S, log_info=False)
    name = f"bert-{run.id[:12]}"
    assert run.status.service == {
        "name": name,
        "url": f"{name}.default.svc:8080",
        "ports": [
            {"name": "http", "port": 8080, "protocol": "TCP"},
            {"name": "grpc", "port": 8081, "protocol": "TCP"},
        ],
        "urls": [f"{name}.default.svc:8080"],
    }
    assert run.url == f"http://{name}.default.svc:8080"
    assert ms.get_run(run.id).state == "RUNNING"
    assert [one.state for one in ms.list_runs(target=CLUSTER)] == ["RUNNING"]


def test_what_happens_is_told_while_it_is_waited_for(
    fake: Fake, bert: ms.Function, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.fate = fates.ready(after=100)
    run = serve(bert)
    run.wait(timeout=WAIT_S)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == f"RUNNING at {run.url}"
    assert len(lines) > 1
    assert all(line.startswith("PENDING ") for line in lines[:-1])


def test_scaled(fake: Fake, bert: ms.Function) -> None:
    run = running(bert)
    (first,) = fake.objects("Pod")
    run.scale(3, wait=True, timeout=WAIT_S, log_info=False)
    assert len(fake.objects("Pod")) == 3
    assert first["metadata"]["uid"] in {one["metadata"]["uid"] for one in fake.objects("Pod")}, "nobody touched it"
    assert run.spec.replicas == 3
    run.scale(1, wait=True, timeout=WAIT_S, log_info=False)
    fake.wait(lambda: len(fake.objects("Pod")) == 1)
    for wrong in (0, -1, True, 1.5, "2"):
        with pytest.raises(ConfigError, match=rf"replicas is {wrong!r}; it must be a whole number of at least 1"):
            run.scale(wrong)  # type: ignore[arg-type]


def test_what_has_an_autoscaler_is_not_scaled_by_hand(fake: Fake, bert: ms.Function) -> None:
    scaling = {"min_replicas": 2, "max_replicas": 4, "target": 80}
    run = running(bert, scaling=scaling, resources={"cpu": "1"})
    with pytest.raises(ConfigError, match="its autoscaler says how many pods there are"):
        run.scale(2)


def test_an_autoscaler_takes_over_what_there_is(fake: Fake, bert: ms.Function) -> None:
    """The number of pods is nobody's for no moment: it would fall to 1."""
    run = running(bert, replicas=3, resources={"cpu": "1"})
    run.update(scaling={"min_replicas": 3, "max_replicas": 4, "target": 80}, wait=True, timeout=WAIT_S, log_info=False)
    assert only(fake, "Deployment")["spec"]["replicas"] == 3
    assert [one["kind"] for one in run.manifest() if one["kind"] == "HorizontalPodAutoscaler"]
    run.update(scaling=None, wait=True, timeout=WAIT_S, log_info=False)
    assert "HorizontalPodAutoscaler" not in kinds(fake)
    assert only(fake, "Deployment")["spec"]["replicas"] == 3


def test_a_refused_end_of_an_autoscaler_changes_nothing(fake: Fake, bert: ms.Function) -> None:
    scaling = {"min_replicas": 2, "max_replicas": 4, "target": 80}
    run = running(bert, scaling=scaling, resources={"cpu": "1"})
    fake.quota({"count/poddisruptionbudgets.policy": "0"})
    with pytest.raises(TargetRefused, match="exceeded quota"):
        run.update(scaling=None, replicas=3, disruption_budget=1)
    assert only(fake, "Deployment")["spec"]["replicas"] == 2
    run.update(scaling=None, replicas=3, wait=True, timeout=WAIT_S, log_info=False)
    assert only(fake, "Deployment")["spec"]["replicas"] == 3


def test_updated_in_place(fake: Fake, bert: ms.Function) -> None:
    run = running(bert, replicas=2, envs={"A": "1"}, disruption_budget=1)
    before = {one["metadata"]["uid"] for one in fake.objects("Pod")}
    run.update(envs={"A": "2"}, disruption_budget=None)
    assert run.state == "PENDING"
    assert run.url, "the former pods answer meanwhile"
    run.wait(timeout=WAIT_S, log_info=False)
    fake.wait(lambda: len(fake.objects("Pod")) == 2)
    assert not before & {one["metadata"]["uid"] for one in fake.objects("Pod")}
    assert all({"name": "A", "value": "2"} in one["spec"]["containers"][0]["env"] for one in fake.objects("Pod"))
    assert "PodDisruptionBudget" not in kinds(fake)
    assert run.spec.envs == [{"name": "A", "value": "2"}]
    assert run.spec.disruption_budget is None


def test_an_update_that_changes_no_pod_starts_none(fake: Fake, bert: ms.Function) -> None:
    run = running(bert)
    before = {one["metadata"]["uid"] for one in fake.objects("Pod")}
    run.update(disruption_budget=1, service_type="NodePort", wait=True, timeout=WAIT_S, log_info=False)
    assert {one["metadata"]["uid"] for one in fake.objects("Pod")} == before
    assert only(fake, "Service")["spec"]["type"] == "NodePort"


def test_an_update_that_is_refused_changes_nothing(fake: Fake, bert: ms.Function) -> None:
    run = running(bert)
    before, record = fake.everything("default"), run._record
    fake.deny("patch", "deployments")
    with pytest.raises(TargetRefused, match="the cluster refuses to apply Deployment bert-"):
        run.update(envs={"A": "1"}, disruption_budget=1)
    with pytest.raises(ConfigError, match="namespace is None; it cannot change while the run is there"):
        run.update(namespace="other")
    with pytest.raises(ConfigError, match="unknown parameter resorces; did you mean resources"):
        run.update(resorces={})
    with pytest.raises(ConfigError, match="a profile belongs to the start of a run"):
        run.update(profile="a100")
    assert fake.everything("default") == before
    assert run.refresh()._record.spec == record.spec


def test_a_dry_run_changes_nothing(fake: Fake, bert: ms.Function) -> None:
    found = bert.manifest("serve", dry_run=True)
    assert [one["kind"] for one in found] == ["Deployment", "Service"]
    assert found[0]["spec"]["template"]["spec"]["restartPolicy"] == "Always", "the cluster has filled it in"
    assert fake.everything("default") == []
    run = running(bert)
    before = fake.everything("default")
    found = run.update(dry_run=True, replicas=5)
    assert found[0]["spec"]["replicas"] == 5
    assert fake.everything("default") == before
    assert run.refresh().spec.replicas is None


def test_the_manifest_is_what_was_applied(fake: Fake, bert: ms.Function) -> None:
    ms.get_project("demo").new_secret("HF_TOKEN", "s3cret")
    run = running(bert, secrets=["HF_TOKEN"], model_cache="1Gi")
    found = run.manifest()
    assert [one["kind"] for one in found] == ["PersistentVolumeClaim", "Deployment", "Service"]
    assert "s3cret" not in str(found)
    deployment = next(one for one in found if one["kind"] == "Deployment")
    assert "status" not in deployment
    assert "restartPolicy" not in deployment["spec"]["template"]["spec"], "that is the cluster's"
    assert deployment["spec"]["replicas"] == 1


def test_what_only_a_cluster_can(bert: ms.Function, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.TARGETS, "local", "tests.deploy.nowhere:Nowhere")
    run = bert.run("serve")
    for what, call in {"a manifest": run.manifest, "an update": run.update, "a scale": lambda: run.scale(2)}.items():
        with pytest.raises(ConfigError, match=f"{what} is for runs in a cluster; this one is on the target local"):
            call()


def test_what_others_have_set_is_left_unless_it_is_forced(fake: Fake, bert: ms.Function) -> None:
    run = running(bert)
    name = only(fake, "Deployment")["metadata"]["name"]
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "modelserve", "image": "mine:1"}]}}}}
    other = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, **patch}
    run._target._cluster(run._record)._call(  # type: ignore[attr-defined]
        "PATCH",
        "Deployment",
        name,
        query={"fieldManager": "kubectl-edit", "force": "true"},
        body=other,
        content="application/apply-patch+yaml",
    )
    with pytest.raises(TargetRefused) as found:
        run.update(image="mine:2")
    assert "Deployment" in found.value.message
    assert "image (kubectl-edit); force=True takes them over" in found.value.message
    run.update(image="mine:2", force=True, wait=True, timeout=WAIT_S, log_info=False)
    assert only(fake, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"] == "mine:2"


def test_stopped_and_resumed(fake: Fake, bert: ms.Function) -> None:
    run = running(bert, replicas=2, model_cache="1Gi")
    run.stop()
    assert (run.state, run.url, run.alive) == ("STOPPED", None, False)
    assert fake.objects("Pod") == []
    assert kinds(fake) == ["Deployment", "PersistentVolumeClaim", "Service"], "disks and names stay"
    assert run.refresh().state == "STOPPED"
    run.update(envs={"A": "1"}, wait=True)
    assert (run.state, run.spec.envs) == ("STOPPED", [{"name": "A", "value": "1"}])
    assert fake.objects("Pod") == [], "it is stopped all the same"
    with pytest.raises(TargetError, match="the run is STOPPED, and cannot be changed; resume it first"):
        run.scale(2)
    run.resume(wait=True, timeout=WAIT_S, log_info=False)
    assert (run.state, len(fake.objects("Pod"))) == ("RUNNING", 2)
    assert all({"name": "A", "value": "1"} in one["spec"]["containers"][0]["env"] for one in fake.objects("Pod"))
    run.stop()
    run.delete()
    assert fake.everything("default") == []


def test_resumed_with_an_autoscaler(fake: Fake, bert: ms.Function) -> None:
    scaling = {"min_replicas": 2, "max_replicas": 4, "target": 80}
    run = running(bert, scaling=scaling, resources={"cpu": "1"})
    run.stop()
    assert fake.objects("Pod") == []
    run.resume(wait=True, timeout=WAIT_S, log_info=False)
    assert len(fake.objects("Pod")) == 2


def test_a_run_that_others_have_removed(fake: Fake, bert: ms.Function) -> None:
    run = running(bert)
    name = only(fake, "Deployment")["metadata"]["name"]
    fake.remove("Deployment", name)
    fake.wait(lambda: not fake.objects("Pod"))
    assert run.refresh().state == "ERROR"
    assert run.status.message == "its Deployment is not in the cluster any more: somebody has removed it"
    run.resume(wait=True, timeout=WAIT_S, log_info=False)
    assert run.state == "RUNNING"


class TestStableName:
    def test_it_moves_when_the_new_run_answers(self, fake: Fake, bert: ms.Function) -> None:
        def leads_to() -> str:
            (found,) = (one for one in fake.objects("Service") if one["metadata"]["name"] == "prod")
            return str(found["spec"]["selector"]["modelserve/run"])

        first = running(bert, service_name="prod")
        assert leads_to() == first.id
        assert first.status.service["name"] == "prod"
        fake.fate = fates.unready()
        second = serve(bert, service_name="prod")
        assert second.refresh().state == "PENDING"
        assert leads_to() == first.id, "the old one answers, the new one does not yet"
        fake.fate = fates.READY
        second.wait(timeout=WAIT_S, log_info=False)
        assert leads_to() == second.id
        first.refresh()
        assert leads_to() == second.id
        first.delete()
        assert leads_to() == second.id, "it is the second's by now"
        second.delete()
        assert fake.everything("default") == []

    def test_it_is_one_functions(self, fake: Fake, bert: ms.Function) -> None:
        running(bert, service_name="prod")
        other = ms.new_function("demo", "other", "huggingfaceserve", path="hf://org/other")
        with pytest.raises(TargetError, match="'prod', which is the service of the function bert in the"):
            serve(other, service_name="prod")
        assert other.list_runs() == []
        fake.add({"kind": "Service", "metadata": {"name": "shop"}, "spec": {"ports": [{"port": 80}]}})
        with pytest.raises(TargetError, match="'shop', which is a Service that modelserve has not made"):
            serve(other, service_name="shop")


def test_found_again_without_the_store(
    fake: Fake, bert: ms.Function, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ms.get_project("demo").new_secret("HF_TOKEN", "s3cret")
    run = running(bert, replicas=2, secrets=["HF_TOKEN"], envs={"A": "1"}, service_name="prod")
    running(bert).stop()
    others = manifests.deployment("x")
    others["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "modelserve"}
    fake.add(others)
    move(monkeypatch, home.parent / "elsewhere")
    assert ms.list_runs() == []
    found = {one.id: one for one in ms.list_runs(target=CLUSTER)}
    assert sorted(one.state for one in found.values()) == ["RUNNING", "STOPPED"]
    again = found[run.id]
    assert (again.state, again.key, again.url) == ("RUNNING", run.key, run.url)
    assert again.spec.envs == [{"name": "A", "value": "1"}]
    assert [one.name for one in ms.list_functions()] == ["bert"]
    assert len(ms.list_runs(target=CLUSTER)) == 2, "once"
    again.scale(1, wait=True, timeout=WAIT_S, log_info=False)
    with pytest.raises(ms.EntityNotFound, match="the project 'demo' has no secret 'HF_TOKEN'"):
        again.update(envs={"A": "2"})
    ms.get_project("demo").new_secret("HF_TOKEN", "s3cret")
    again.update(envs={"A": "2"}, wait=True, timeout=WAIT_S, log_info=False)
    for one in found.values():
        one.delete()
    assert [one["metadata"]["name"] for one in fake.objects("Deployment")] == ["x"]


def test_a_path_with_a_password_is_found_again(
    fake: Fake, bert: ms.Function, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the run's Secret alone."""
    path = "https://me:hunter2@models.example/bert.zip?signature=hunter3"
    run = running(ms.new_function("demo", "zipped", "huggingfaceserve", path=path))
    seen = str([one for one in fake.everything("default") if one["kind"] != "Secret"])
    assert "hunter" not in seen
    move(monkeypatch, home.parent / "elsewhere")
    (again,) = ms.list_runs(target=CLUSTER)
    assert again.spec.path == path
    again.update(envs={"A": "1"}, wait=True, timeout=WAIT_S, log_info=False)
    assert run.id == again.id


def test_the_address_of_a_balancer_may_come_late(
    fake: Fake, bert: ms.Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = running(bert)
    run.update(service_type="LoadBalancer", wait=True, timeout=WAIT_S, log_info=False)
    fake.wait(lambda: any((one.get("status") or {}).get("loadBalancer") for one in fake.objects("Service")))
    asked: list[str] = []
    monkeypatch.setattr("modelserve.deploy.kubernetes.service._takes_connections", lambda one: not asked.append(one))
    ingress = only(fake, "Service")["status"]["loadBalancer"]["ingress"][0]
    assert run.client.url == f"http://{ingress['ip']}:8080"
    assert asked == [f"{ingress['ip']}:8080"]
