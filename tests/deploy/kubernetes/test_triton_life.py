"""The life of a run with a Triton behind it, in each of the two forms: what is asked of one is done to both."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import modelserve as ms
from modelserve.deploy.kubernetes import doorbell, noted
from modelserve.errors import ConfigError, EntityNotFound, TargetRefused
from tests.deploy.kubernetes.conftest import move
from tests.deploy.kubernetes.fake import Fake, fates
from tests.deploy.manifests.rows import TRITON

WAIT_S = 30
BESIDE = {"model_repository": "s3://models/bert"}
APART = BESIDE | {"form": "deployment"}
FORMS = pytest.mark.parametrize("triton", [BESIDE, APART], ids=["container", "deployment"])
Json = dict[str, Any]


def serve(function: ms.Function, **given: Any) -> ms.Run:
    return function.run("serve", target="kubernetes", **given)


def running(function: ms.Function, **given: Any) -> ms.Run:
    return serve(function, wait=True, timeout=WAIT_S, log_info=False, **given)


def name_of(run: ms.Run) -> str:
    return f"bert-{run.id[:12]}"


def names(fake: Fake) -> set[str]:
    """Of all that is there, but for what controllers have made."""
    found = [one for one in fake.everything("default") if one["kind"] not in ("Pod", "ReplicaSet")]
    return {f"{one['kind']}/{one['metadata']['name']}" for one in found}


def pods(fake: Fake) -> dict[str, Json]:
    """uid -> pod, those of a Triton."""
    return {one["metadata"]["uid"]: one for one in fake.objects("Pod") if is_tritons(one)}


def servers(fake: Fake) -> dict[str, Json]:
    return {one["metadata"]["uid"]: one for one in fake.objects("Pod") if not is_tritons(one)}


def sidecars(fake: Fake) -> list[Json]:
    """Their statuses."""
    return [one for pod in fake.objects("Pod") for one in pod["status"].get("initContainerStatuses", ())]


def is_tritons(pod: Json) -> bool:
    return bool(pod["metadata"]["labels"]["modelserve/run"].endswith(".triton"))


def failure(run: ms.Run) -> str:
    began = time.monotonic()
    with pytest.raises(ms.RunFailed) as found:
        run.wait(timeout=WAIT_S, log_info=False)
    assert time.monotonic() - began < WAIT_S / 2, "early"
    return found.value.message.removeprefix(f"the run {run.id} is ERROR: ")


def healed(fake: Fake, run: ms.Run) -> None:
    fake.fate, fake.fates = fates.READY, {}
    deadline = time.monotonic() + WAIT_S
    while run.refresh().state != "RUNNING":
        assert time.monotonic() < deadline, run.status.message
        time.sleep(0.05)


@FORMS
def test_from_nothing_to_nothing(fake: Fake, bert: ms.Function, triton: Json) -> None:
    ms.get_project("demo").new_secret("KEY", "s3cret")
    run = running(bert, triton=triton | {"secrets": ["KEY"]}, disruption_budget=1, service_name="bert")
    name = name_of(run)
    own = {
        f"Deployment/{name}",
        f"Service/{name}",
        "Service/bert",
        f"PodDisruptionBudget/{name}",
        f"Secret/{name}-triton",
    }
    assert names(fake) == own | ({f"Deployment/{name}-triton", f"Service/{name}-triton"} if triton is APART else set())
    assert run.url == "http://bert.default.svc:8080"
    assert "s3cret" not in str(run.manifest())
    assert {f"{one['kind']}/{one['metadata']['name']}" for one in run.manifest()} == names(fake) - {
        f"Secret/{name}-triton"
    }
    assert run.spec.triton["image"] == TRITON
    run.delete()
    assert fake.everything("default") == []


@FORMS
def test_a_dry_run_changes_nothing(fake: Fake, bert: ms.Function, triton: Json) -> None:
    found = bert.manifest("serve", dry_run=True, triton=triton)
    assert len(found) == (4 if triton is APART else 2)
    assert fake.everything("default") == []
    run = running(bert, triton=triton)
    before = fake.everything("default")
    changed = run.update(dry_run=True, triton=triton | {"image": "own:1"})
    assert "own:1" in str(changed)
    assert fake.everything("default") == before


def test_it_is_ready_when_both_are(fake: Fake, bert: ms.Function) -> None:
    """The server has answered long before."""
    fake.fates[TRITON] = fates.unready("loading bert")
    run = serve(bert, triton=APART | {"replicas": 2})
    fake.wait(lambda: any(one["status"].get("phase") == "Running" for one in pods(fake).values()))
    with pytest.raises(ms.WaitTimeout, match=r"PENDING after 0.5 s, Triton: loading, 0 of 2 pods answer"):
        run.wait(timeout=0.5, log_info=False)
    fake.fates = {}
    run.wait(timeout=WAIT_S, log_info=False)
    assert len(pods(fake)) == 2


def test_a_sidecar_is_loaded_before_the_server_begins(fake: Fake, bert: ms.Function) -> None:
    fake.fate = fates.Fate(container="triton", answers=False)
    run = serve(bert, triton=BESIDE)
    fake.wait(lambda: any(one.get("containerID") for one in sidecars(fake)))
    with pytest.raises(
        ms.WaitTimeout, match=r"is still PENDING after 0\.3 s, loading Triton's models, 0 of 1 pods answer"
    ):
        run.wait(timeout=0.3, log_info=False)
    (pod,) = fake.objects("Pod")
    assert pod["status"]["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}
    fake.fate = fates.READY
    run.wait(timeout=WAIT_S, log_info=False)


class TestTrouble:
    """Told early, as Triton's, with its own log."""

    def put(self, fake: Fake, triton: Json, fate: Any) -> None:
        """What becomes of Triton alone."""
        if triton is APART:
            fake.fates[TRITON] = fate
        else:
            fake.fate = fate

    @FORMS
    def test_an_image_that_is_not_there(self, fake: Fake, bert: ms.Function, triton: Json) -> None:
        words = "failed to resolve reference: unauthorized"
        self.put(fake, triton, fates.no_image(words, container="triton"))
        run = serve(bert, triton=triton)
        said = failure(run)
        assert f"the image {TRITON} cannot be pulled: " in said
        assert words in said
        healed(fake, run)

    @FORMS
    def test_one_that_ends_again_and_again(self, fake: Fake, bert: ms.Function, triton: Json) -> None:
        lines = ("I0101 model_lifecycle.cc: loading: bert:1", "E0101 failed to load 'bert': no model version")
        self.put(fake, triton, fates.crash(*lines, container="triton"))
        run = serve(bert, triton=triton)
        cause, *log = failure(run).splitlines()
        assert cause.startswith("Triton in the pod bert-")
        assert "ends with exit code 1, " in cause
        assert tuple(log) == lines
        healed(fake, run)

    @FORMS
    def test_too_little_memory(self, fake: Fake, bert: ms.Function, triton: Json) -> None:
        self.put(fake, triton, fates.Fate(container="triton", exit_code=137, reason="OOMKilled", answers=False))
        said = failure(serve(bert, triton=triton))
        assert said.startswith("Triton in the pod bert-")
        assert "give it more with resources mem of triton" in said

    @FORMS
    def test_a_secret_that_is_missing(self, fake: Fake, bert: ms.Function, triton: Json) -> None:
        run = serve(bert, triton=triton | {"secrets": ["secret://absent/KEY"]})
        assert failure(run).endswith('the container triton cannot be made: secret "absent" not found')

    @FORMS
    def test_a_claim_that_is_missing(self, fake: Fake, bert: ms.Function, triton: Json) -> None:
        run = serve(bert, triton=triton | {"model_repository": {"claim_name": "absent"}})
        assert failure(run).endswith('0/2 nodes are available: persistentvolumeclaim "absent" not found. not found')

    @FORMS
    def test_no_node(self, fake: Fake, bert: ms.Function, triton: Json, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(noted, "_PATIENCE_S", 0.5)
        monkeypatch.setattr(doorbell, "_LOOK_S", 0.3)
        run = serve(bert, triton=triton | {"resources": {"gpu": "99"}})
        assert "no node of the cluster takes the pod: 0/2 nodes are available: 1 Insufficient nvidia.com" in failure(
            run
        )
        fake.node.capacity["nvidia.com/gpu"] = "100"
        healed(fake, run)

    def test_a_server_that_ends_is_the_servers(self, fake: Fake, bert: ms.Function) -> None:
        """Such as for a model that Triton does not have."""
        fake.fates["own:1"] = fates.crash("LoadError: no model 'bert'", code=1)
        run = serve(bert, triton=APART, image="own:1")
        cause, *log = failure(run).splitlines()
        assert cause.startswith("the server in the pod bert-")
        assert log == ["LoadError: no model 'bert'"]

    def test_the_deadline(self, fake: Fake, bert: ms.Function) -> None:
        fake.fates[TRITON] = fates.unready("still loading")
        fake.seconds = 0.002
        said = failure(serve(bert, triton=APART, startup_timeout=30))
        assert said.startswith(("Triton: its pods did not answer in time: ", "Triton in the pod bert-"))
        assert said.endswith("still loading")

    def test_a_quota(self, fake: Fake, bert: ms.Function) -> None:
        fake.quota({"requests.nvidia.com/gpu": "0"})
        said = failure(serve(bert, triton=APART | {"resources": {"gpu": 1}}))
        assert said.startswith("Triton: the cluster makes no pods for it: pods ")
        assert "exceeded quota" in said

    def test_what_somebody_has_removed(self, fake: Fake, bert: ms.Function) -> None:
        run = running(bert, triton=APART)
        fake.remove("Deployment", f"{name_of(run)}-triton")
        fake.wait(lambda: not pods(fake))
        fake.fate = fates.unready()  # as the server is without it
        fake.remove("Pod", next(iter(servers(fake).values()))["metadata"]["name"])
        deadline = time.monotonic() + WAIT_S
        while run.refresh().state != "ERROR":
            assert time.monotonic() < deadline, run.status.message
            time.sleep(0.05)
        assert run.status.message == "Triton: its Deployment is not in the cluster any more: somebody has removed it"
        fake.fate = fates.READY
        run.resume(wait=True, timeout=WAIT_S, log_info=False)
        assert len(pods(fake)) == 1

    def test_what_is_running_says_what_its_triton_lacks(self, fake: Fake, bert: ms.Function) -> None:
        run = running(bert, triton=APART | {"replicas": 2, "resources": {"gpu": 1}})
        fake.node.capacity["nvidia.com/gpu"] = "1"
        fake.remove("Pod", next(iter(pods(fake).values()))["metadata"]["name"])
        deadline = time.monotonic() + WAIT_S
        while not (run.refresh().status.message or "").startswith("Triton: 1 of 2 pods answer: no node of the cluster"):
            assert time.monotonic() < deadline, run.status.message
            time.sleep(0.05)
        assert run.state == "RUNNING"

    def test_one_that_is_refused_leaves_nothing(self, fake: Fake, bert: ms.Function) -> None:
        fake.quota({"count/deployments.apps": "1"})
        with pytest.raises(TargetRefused, match="exceeded quota"):
            serve(bert, triton=APART)
        fake.wait(lambda: not fake.everything("default"))


class TestLogs:
    @FORMS
    def test_of_each(self, fake: Fake, bert: ms.Function, triton: Json) -> None:
        run = running(bert, triton=triton)
        for pod in fake.objects("Pod"):
            for box in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
                with fake.store.lock:
                    fake.state.logs.write(pod["metadata"]["uid"], box["name"], f"this is {box['name']}")
        assert run.logs() == "this is modelserve"
        assert run.logs(container="triton") == "this is triton"
        follow = run.logs(container="triton", follow=True)
        assert next(iter(follow)) == "this is triton"

    def test_of_the_one_before(self, fake: Fake, bert: ms.Function) -> None:
        fake.fates[TRITON] = fates.crash("first", crashes=1)
        run = serve(bert, triton=APART)
        run.wait(timeout=WAIT_S, log_info=False)
        assert run.logs(container="triton", previous=True) == "first"

    def test_of_a_triton_that_is_not_there(self, fake: Fake, bert: ms.Function) -> None:
        run = running(bert)
        with pytest.raises(TargetRefused, match="container triton is not valid for pod"):
            run.logs(container="triton")


class TestChanges:
    def test_scale_is_of_the_server_where_it_is_apart(self, fake: Fake, bert: ms.Function) -> None:
        run = running(bert, triton=APART)
        run.scale(3, wait=True, timeout=WAIT_S, log_info=False)
        assert (len(servers(fake)), len(pods(fake))) == (3, 1)
        run.update(triton=APART | {"replicas": 2}, wait=True, timeout=WAIT_S, log_info=False)
        fake.wait(lambda: len(pods(fake)) == 2)
        assert len(servers(fake)) == 3

    def test_scale_is_of_both_in_one_pod(self, fake: Fake, bert: ms.Function) -> None:
        run = running(bert, triton=BESIDE)
        run.scale(2, wait=True, timeout=WAIT_S, log_info=False)
        assert all("initContainers" in one["spec"] for one in fake.objects("Pod"))

    def test_a_change_of_the_server_leaves_its_triton_alone(self, fake: Fake, bert: ms.Function) -> None:
        run = running(bert, triton=APART)
        before, former = set(pods(fake)), set(servers(fake))
        run.update(envs={"A": "1"}, wait=True, timeout=WAIT_S, log_info=False)
        fake.wait(lambda: len(servers(fake)) == 1)
        assert set(pods(fake)) == before
        assert not set(servers(fake)) & former

    def test_a_change_of_its_triton_leaves_the_server_alone(self, fake: Fake, bert: ms.Function) -> None:
        """A rolling update: a former one ends when a new one answers."""
        run = running(bert, triton=APART)
        before, former = set(pods(fake)), set(servers(fake))
        fake.fates["own:1"] = fates.unready()
        run.update(triton=APART | {"image": "own:1"})
        fake.wait(lambda: len(pods(fake)) == 2)
        assert run.refresh().state == "PENDING"
        assert before < set(pods(fake)), "the former one answers meanwhile"
        fake.fates = {}
        run.wait(timeout=WAIT_S, log_info=False)
        fake.wait(lambda: len(pods(fake)) == 1)
        assert not set(pods(fake)) & before
        assert set(servers(fake)) == former

    def test_another_value_of_a_secret_of_its_own_is_another_triton(self, fake: Fake, bert: ms.Function) -> None:
        ms.get_project("demo").new_secret("KEY", "one")
        run = running(bert, triton=APART | {"secrets": ["KEY"]})
        former = set(servers(fake))
        ms.get_project("demo").new_secret("OTHER", "two")
        run.update(triton=APART | {"secrets": ["OTHER"]}, wait=True, timeout=WAIT_S, log_info=False)
        assert set(servers(fake)) == former

    def test_one_that_comes(self, fake: Fake, bert: ms.Function) -> None:
        """The former servers answer until those that ask it do."""
        run = running(bert)
        former = set(servers(fake))
        fake.fates[TRITON] = fates.unready()
        run.update(triton=APART)
        fake.wait(lambda: pods(fake))
        assert run.refresh().state == "PENDING"
        fake.fates = {}
        run.wait(timeout=WAIT_S, log_info=False)
        fake.wait(lambda: len(servers(fake)) == 1)
        assert not set(servers(fake)) & former

    @pytest.mark.parametrize("then", [None, BESIDE], ids=["none", "container"])
    def test_one_that_goes_stays_until_nobody_asks_it(self, fake: Fake, bert: ms.Function, then: Json | None) -> None:
        run = running(bert, triton=APART)
        former = set(servers(fake))
        fake.fate, fake.fates[TRITON] = fates.unready(), fates.READY
        fake.fates[f"{name_of(run)}-triton"] = fates.READY
        run.update(triton=then)
        fake.wait(lambda: len(servers(fake)) == 2)
        assert run.refresh().state == "PENDING"
        assert former < set(servers(fake))
        assert len(pods(fake)) == 1, "the former server asks it"
        fake._kubelet.ending = 50  # while it drains, too
        fake.fate, fake.fates = fates.READY, {}
        deadline = time.monotonic() + WAIT_S
        while run.refresh().state != "RUNNING":
            with fake.store.lock:
                stays = any("deletionTimestamp" not in one["metadata"] for one in pods(fake).values())
                assert stays or not former & set(servers(fake))
            assert time.monotonic() < deadline, run.status.message
        assert not former & set(servers(fake))
        fake.wait(lambda: not pods(fake))
        assert names(fake) == {f"Deployment/{name_of(run)}", f"Service/{name_of(run)}"}

    def test_one_that_goes_and_a_run_that_is_stopped_meanwhile(self, fake: Fake, bert: ms.Function) -> None:
        run = running(bert, triton=APART)
        fake.fate, fake.fates[TRITON] = fates.unready(), fates.READY
        run.update(triton=None)
        run.stop()
        assert fake.objects("Pod") == []
        fake.fate = fates.READY
        run.resume(wait=True, timeout=WAIT_S, log_info=False)
        assert names(fake) == {f"Deployment/{name_of(run)}", f"Service/{name_of(run)}"}

    def test_one_that_goes_and_comes_back(self, fake: Fake, bert: ms.Function) -> None:
        run = running(bert, triton=APART)
        fake.fate, fake.fates[TRITON] = fates.unready(), fates.READY
        run.update(triton=None)
        fake.fate = fates.READY
        run.update(triton=APART, wait=True, timeout=WAIT_S, log_info=False)
        run.refresh()
        assert len(pods(fake)) == 1

    def test_a_refused_one_changes_nothing(self, fake: Fake, bert: ms.Function) -> None:
        run = running(bert)
        before = fake.everything("default")
        with pytest.raises(ConfigError, match="predictor_host is 'other:1', and triton is one of the run's own"):
            run.update(triton=APART, predictor_host="other:1")
        with pytest.raises(EntityNotFound, match="has no secret 'KEY'"):
            run.update(triton=APART | {"secrets": ["KEY"]})
        fake.quota({"count/deployments.apps": "1"})
        with pytest.raises(TargetRefused, match="exceeded quota"):
            run.update(triton=APART)
        assert [one for one in fake.everything("default") if one["kind"] != "ResourceQuota"] == before
        assert run.refresh().spec.triton is None


class TestEnd:
    @FORMS
    def test_stopped_and_resumed(self, fake: Fake, bert: ms.Function, triton: Json) -> None:
        run = running(bert, triton=triton, replicas=2)
        there = names(fake)
        run.stop()
        assert (run.state, fake.objects("Pod"), names(fake)) == ("STOPPED", [], there)
        run.update(triton=triton | {"image": "own:1"})
        assert fake.objects("Pod") == []
        run.resume(wait=True, timeout=WAIT_S, log_info=False)
        assert len(servers(fake)) == 2
        assert len(pods(fake)) == (1 if triton is APART else 0)
        images = {box["image"] for one in fake.objects("Pod") for part in ("containers", "initContainers")
                  for box in one["spec"].get(part, ())}  # fmt: skip
        assert "own:1" in images
        assert TRITON not in images
        run.stop()
        run.delete()
        assert fake.everything("default") == []

    def test_it_ends_after_the_server(self, fake: Fake, bert: ms.Function) -> None:
        """Until then it answers what the server has accepted."""
        run = running(bert, triton=APART)
        with fake.store.lock:
            fake.requests.clear()
        run.stop()
        with fake.store.lock:
            asked = [path.partition("?")[0].removeprefix("/apis/apps/v1/namespaces/default/deployments/")
                     for method, path in fake.requests if method == "PATCH"]  # fmt: skip
            at = [index for index, (method, _) in enumerate(fake.requests) if method == "PATCH"]
            between = fake.requests[at[0] : at[1]]
        assert asked == [f"{name_of(run)}/scale", f"{name_of(run)}-triton/scale"]
        assert any(method == "GET" and "/pods?" in path for method, path in between), "whether the server has ended"

    def test_a_stop_that_broke_off_is_finished_by_whoever_looks(
        self, fake: Fake, bert: ms.Function, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = running(bert, triton=APART)
        with monkeypatch.context() as patched:
            patched.setattr("modelserve.deploy.kubernetes.behind.empty", lambda cluster, record: 1 / 0)
            with pytest.raises(ZeroDivisionError):  # killed between the two
                run.stop()
        assert (len(servers(fake)), len(pods(fake))) == (0, 1)
        deadline = time.monotonic() + WAIT_S
        while run.refresh().state != "STOPPED":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert pods(fake) == {}


@FORMS
def test_what_it_uses_is_what_both_use(fake: Fake, bert: ms.Function, triton: Json) -> None:
    fake.install("metrics.k8s.io")
    fake.state.usage = {"cpu": "1", "memory": "1Mi"}
    run = running(bert, triton=triton | ({"replicas": 2} if triton is APART else {}))
    assert run.usage.cpu == (3 if triton is APART else 2)


def test_found_again_without_the_store(
    fake: Fake, bert: ms.Function, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = running(bert, triton=APART)
    before = set(pods(fake))
    move(monkeypatch, home.parent / "elsewhere")
    (again,) = ms.list_runs(target="kubernetes")
    assert (again.id, again.state, again.spec.triton) == (run.id, "RUNNING", run.spec.triton)
    again.update(envs={"A": "1"}, wait=True, timeout=WAIT_S, log_info=False)
    assert set(pods(fake)) == before, "what has not changed is not begun anew"
    again.delete()
    assert fake.everything("default") == []
