"""Two processes and one run: what one does while the other is in the midst of something."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import modelserve as ms
from modelserve.deploy import catalog
from modelserve.deploy.kubernetes import applied, noted
from modelserve.deploy.target import Usage
from modelserve.errors import TargetUnreachable
from tests.deploy.kubernetes.fake import Fake, fates

WAIT_S = 30


def serve(function: ms.Function, **given: Any) -> ms.Run:
    return function.run("serve", target="kubernetes", **given)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """What another process does once, between the store's write and the objects that are applied then."""
    original = applied.apply

    def set_(act: Callable[[], object]) -> None:
        def apply(*args: Any, **given: Any) -> None:
            monkeypatch.setattr(applied, "apply", original)
            act()
            original(*args, **given)

        monkeypatch.setattr(applied, "apply", apply)

    return set_


def other() -> ms.Run:
    """The run as another process finds it."""
    (found,) = ms.list_runs()
    return found


class TestLooks:
    def test_at_a_start(self, fake: Fake, bert: ms.Function, meanwhile: Any) -> None:
        seen: list[str] = []
        meanwhile(lambda: seen.append(other().refresh().state))
        run = serve(bert, wait=True, timeout=WAIT_S, log_info=False)
        assert (seen, run.state, run.alive) == (["READY"], "RUNNING", True)

    def test_at_a_resume(self, fake: Fake, bert: ms.Function, meanwhile: Any) -> None:
        run = serve(bert, wait=True, timeout=WAIT_S, log_info=False)
        run.stop()
        seen: list[str] = []
        meanwhile(lambda: seen.append(other().refresh().state))
        run.resume(wait=True, timeout=WAIT_S, log_info=False)
        assert (seen, run.state) == (["RESUME"], "RUNNING")

    def test_at_an_update(self, fake: Fake, bert: ms.Function, meanwhile: Any) -> None:
        run = serve(bert, wait=True, timeout=WAIT_S, log_info=False)
        seen: list[str] = []
        meanwhile(lambda: seen.append(other().refresh().state))
        fake.fates["broken:1"] = fates.no_image()
        run.update(image="broken:1")
        assert seen == ["PENDING"]
        with pytest.raises(ms.RunFailed, match="the image broken:1 cannot be pulled"):
            run.wait(timeout=WAIT_S, log_info=False)

    def test_that_began_before_another_wrote(self, fake: Fake, bert: ms.Function) -> None:
        run = serve(bert, wait=True, timeout=WAIT_S, log_info=False)
        old = run._record
        run.scale(2)
        assert run._target.observe(old).state == "PENDING", "the look was for a run of one pod"

    def test_whoever_was_to_apply_it_is_gone(
        self, fake: Fake, bert: ms.Function, meanwhile: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed() -> None:
            raise KeyboardInterrupt

        store = bert._store
        meanwhile(killed)
        monkeypatch.setattr(ms.Run, "_fail", lambda self, message: None)
        with pytest.raises(KeyboardInterrupt):
            serve(bert)
        assert other().refresh().state == "READY"
        monkeypatch.setattr(noted, "_APPLY_S", 0.0)
        found = other().refresh()
        assert (found.state, found.alive) == ("ERROR", False)
        assert found.status.message == "whoever was to apply it to the cluster is gone; resume it, or delete it"
        found.resume(wait=True, timeout=WAIT_S, log_info=False)
        found.delete()
        assert store.list("run") == []

    def test_at_an_update_of_a_run_that_is_old(
        self, fake: Fake, bert: ms.Function, meanwhile: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = serve(bert, wait=True, timeout=WAIT_S, log_info=False)
        time.sleep(0.2)
        monkeypatch.setattr(noted, "_APPLY_S", 0.15)  # what it is measured from is the update, not the start
        meanwhile(lambda: other().refresh())
        run.update(disruption_budget=1)
        run.wait(timeout=WAIT_S, log_info=False)
        assert run.state == "RUNNING"


class TestActs:
    def test_deleted_while_it_is_started(self, fake: Fake, bert: ms.Function, meanwhile: Any) -> None:
        meanwhile(lambda: other().delete())
        with pytest.raises(ms.EntityNotFound):
            serve(bert)
        assert fake.everything("default") == []
        assert ms.list_runs() == []

    def test_stopped_while_it_is_started(self, fake: Fake, bert: ms.Function, meanwhile: Any) -> None:
        meanwhile(lambda: other().stop())
        run = serve(bert)
        assert run.state == "STOPPED"
        fake.wait(lambda: not fake.objects("Pod"))
        run.resume(wait=True, timeout=WAIT_S, log_info=False)

    def test_deleted_while_it_is_changed(self, fake: Fake, bert: ms.Function, meanwhile: Any) -> None:
        run = serve(bert, wait=True, timeout=WAIT_S, log_info=False)
        meanwhile(lambda: other().delete())
        with pytest.raises(ms.EntityNotFound):
            run.update(envs={"A": "1"})
        assert fake.everything("default") == []

    def test_deleted_while_it_is_waited_for(self, fake: Fake, bert: ms.Function) -> None:
        fake.fate = fates.unready()
        run = serve(bert)
        other().delete()
        with pytest.raises(ms.RunFailed, match=f"the run {run.id} was deleted"):
            run.wait(timeout=WAIT_S, log_info=False)

    def test_the_cluster_is_lost_while_it_is_changed(self, fake: Fake, bert: ms.Function, meanwhile: Any) -> None:
        """The run is what it was, for whoever asks next."""
        run = serve(bert, wait=True, timeout=WAIT_S, log_info=False)
        meanwhile(fake.vanish)
        with pytest.raises(TargetUnreachable):
            run.update(envs={"A": "1"})
        fake.come_back()
        run.wait(timeout=WAIT_S, log_info=False)
        assert run.spec.envs is None
        run.update(envs={"A": "1"}, wait=True, timeout=WAIT_S, log_info=False)
        assert run.spec.envs == [{"name": "A", "value": "1"}]


def test_scaled_to_zero_by_kubectl(fake: Fake, bert: ms.Function) -> None:
    run = serve(bert, wait=True, timeout=WAIT_S, log_info=False)
    name = fake.objects("Deployment")[0]["metadata"]["name"]
    cluster = run._target._cluster(run._record)  # type: ignore[attr-defined]

    def kubectl(replicas: int) -> None:
        query = {"fieldManager": "kubectl"}
        body = {"spec": {"replicas": replicas}}
        cluster._call(
            "PATCH", "Deployment", name, "scale", query=query, body=body, content="application/merge-patch+json"
        )

    kubectl(0)
    fake.wait(lambda: not fake.objects("Pod"))
    assert (run.refresh().state, run.alive) == ("PENDING", True)
    assert run.status.message == "somebody has scaled it to zero; scale it, or stop and resume it"
    kubectl(1)
    run.wait(timeout=WAIT_S, log_info=False)
    kubectl(0)
    run.scale(1, wait=True, timeout=WAIT_S, log_info=False)
    kubectl(0)
    run.stop()
    run.resume(wait=True, timeout=WAIT_S, log_info=False)
    run.update(envs={"A": "1"}, wait=True, timeout=WAIT_S, log_info=False)


@pytest.mark.slow
def test_what_was_running_is_not_taken_for_it(fake: Fake, bert: ms.Function, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelserve.deploy.waiting._SILENT_S", 0.3)
    run = serve(bert, wait=True, timeout=WAIT_S, log_info=False)
    fake.vanish()
    with pytest.raises(TargetUnreachable):
        run.wait(timeout=WAIT_S, log_info=False)
    assert catalog.stored_runs()[0].state == "RUNNING"


def test_a_kubeconfig_that_is_gone(fake: Fake, bert: ms.Function, home: Any, caplog: pytest.LogCaptureFixture) -> None:
    file = fake.kubeconfig(home.parent / "temporary")
    run = serve(bert, kubeconfig=file)
    file.unlink()
    (found,) = ms.list_runs()
    assert found.state == "PENDING"
    assert found.usage == Usage()
    assert "where there is no file" in caplog.text
    run.delete(forget=True)


def test_no_secret_in_a_dry_run(fake: Fake, bert: ms.Function) -> None:
    ms.get_project("demo").new_secret("HF_TOKEN", "s3cret")
    assert [one["kind"] for one in bert.manifest("serve", dry_run=True, secrets=["HF_TOKEN"])] == [
        "Deployment",
        "Service",
    ]
    run = serve(bert, secrets=["HF_TOKEN"])
    assert "Secret" not in {one["kind"] for one in run.update(dry_run=True, replicas=2)}


@pytest.mark.slow
def test_watches_of_a_busy_server(fake: Fake, bert: ms.Function) -> None:
    """They are set up again; a thread that dies would be a warning, and those are errors."""
    fake.fate = fates.unready()
    run = serve(bert)
    fake.fail(503, 12, "GET")
    with pytest.raises((ms.WaitTimeout, ms.TargetError)):
        run.wait(timeout=1.0, log_info=False)
    fake.fate = fates.READY
    run.wait(timeout=WAIT_S, log_info=False)


def test_a_pod_that_a_node_has_thrown_out_is_no_pod(fake: Fake, bert: ms.Function) -> None:
    run = serve(bert, wait=True, timeout=WAIT_S, log_info=False)
    fake.fate = fates.evicted(after=50)
    fake.wait(lambda: any(one["status"].get("phase") == "Failed" for one in fake.objects("Pod")))
    fake.fate = fates.READY
    run.wait(timeout=WAIT_S, log_info=False)
    run.stop(timeout=10)
    assert run.state == "STOPPED"


def test_its_service_is_gone(fake: Fake, bert: ms.Function) -> None:
    fake.fate = fates.unready()
    run = serve(bert)
    fake.remove("Service", fake.objects("Service")[0]["metadata"]["name"])
    fake.fate = fates.READY
    with pytest.raises(ms.RunFailed, match=r"its Service .* is not in the cluster any more: somebody has removed it"):
        run.wait(timeout=WAIT_S, log_info=False)
    assert ms.list_runs()[0].state == "ERROR"
    run.resume(wait=True, timeout=WAIT_S, log_info=False)
    run.delete()


def test_an_update_does_not_take_a_stable_name_back(fake: Fake, bert: ms.Function) -> None:
    old = serve(bert, service_name="prod", wait=True, timeout=WAIT_S, log_info=False)
    new = serve(bert, service_name="prod", wait=True, timeout=WAIT_S, log_info=False)

    def leads_to() -> str:
        (found,) = (one for one in fake.objects("Service") if one["metadata"]["name"] == "prod")
        return str(found["spec"]["selector"]["modelserve/run"])

    old.update(envs={"A": "1"}, wait=True, timeout=WAIT_S, log_info=False)
    assert leads_to() == new.id
    assert old.status.service["name"] != "prod", "who asks the old one is answered by it"
    old.stop()
    old.resume(wait=True, timeout=WAIT_S, log_info=False)
    assert leads_to() == old.id, "it was started last"


def test_scaled_up_over_quota(fake: Fake, bert: ms.Function) -> None:
    """As many pods answer as before."""
    scaling = {"min_replicas": 2, "max_replicas": 4, "target": 80}
    run = serve(bert, scaling=scaling, resources={"cpu": "1"}, wait=True, timeout=WAIT_S, log_info=False)
    fake.quota({"pods": "2"})
    name = fake.objects("Deployment")[0]["metadata"]["name"]
    run._target._cluster(run._record).scale("Deployment", name, 3)  # type: ignore[attr-defined]
    for _ in range(20):
        assert run.refresh().state == "RUNNING", run.status.message
    assert (run.status.message or "").startswith("2 of 3 pods answer")


class TestTwoStores:
    @pytest.fixture
    def elsewhere(self, monkeypatch: pytest.MonkeyPatch, home: Any) -> Callable[[bool], None]:
        def move(there: bool) -> None:
            monkeypatch.setenv("MODELSERVE_HOME", str(home.parent / "elsewhere" if there else home))

        return move

    def test_a_scale_is_seen(self, fake: Fake, bert: ms.Function, elsewhere: Any) -> None:
        run = serve(bert, wait=True, timeout=WAIT_S, log_info=False)
        run.scale(3, wait=True, timeout=WAIT_S, log_info=False)
        elsewhere(True)
        (again,) = ms.list_runs(target="kubernetes")
        assert again.spec.replicas == 3
        again.update(envs={"A": "1"}, wait=True, timeout=WAIT_S, log_info=False)
        assert fake.objects("Deployment")[0]["spec"]["replicas"] == 3

    def test_what_another_has_changed_is_not_taken_back(self, fake: Fake, bert: ms.Function, elsewhere: Any) -> None:
        run = serve(bert, wait=True, timeout=WAIT_S, log_info=False)
        elsewhere(True)
        (again,) = ms.list_runs(target="kubernetes")
        again.update(envs={"A": "1"}, wait=True, timeout=WAIT_S, log_info=False)
        elsewhere(False)
        with pytest.raises(ms.TargetError, match="the run was changed from elsewhere"):
            run.update(envs={"B": "1"})
        (run,) = ms.list_runs(target="kubernetes")
        assert run.spec.envs == [{"name": "A", "value": "1"}]
        run.update(disruption_budget=1, wait=True, timeout=WAIT_S, log_info=False)
        env = fake.objects("Pod")[0]["spec"]["containers"][0]["env"]
        assert {"name": "A", "value": "1"} in env

    def test_without_the_right_to_see_kserve(self, fake: Fake, bert: ms.Function, elsewhere: Any) -> None:
        serve(bert, wait=True, timeout=WAIT_S, log_info=False)
        fake.install("serving.kserve.io")
        fake.deny("list", "inferenceservices")
        elsewhere(True)
        assert len(ms.list_runs(target="kubernetes")) == 1


def test_an_update_that_kserve_does_not_bring_up(fake: Fake, bert: ms.Function) -> None:
    fake.install("serving.kserve.io")
    run = serve(bert, flavor="kserve", wait=True, timeout=WAIT_S, log_info=False)
    fake.fates["broken:1"] = fates.no_image()
    with pytest.raises(ms.RunFailed, match="the image broken:1 cannot be pulled"):
        run.update(image="broken:1", wait=True, timeout=WAIT_S, log_info=False)


def test_a_stop_that_is_refused(fake: Fake, bert: ms.Function) -> None:
    run = serve(bert, wait=True, timeout=WAIT_S, log_info=False)
    fake.deny("patch", "deployments/scale")
    with pytest.raises(ms.TargetError, match="the cluster refuses"):
        run.stop()
    assert run.refresh().state == "RUNNING", "it serves, and says so"


def test_annotations_of_ours_are_ours(bert: ms.Function) -> None:
    with pytest.raises(ms.ConfigError, match="annotations has 'modelserve/key'; what begins with modelserve/ is"):
        bert.manifest("serve", annotations={"modelserve/key": "x"})
