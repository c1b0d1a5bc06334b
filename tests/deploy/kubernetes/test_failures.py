"""Everything that keeps a run in a cluster from answering: told early, in one sentence, with the pod's last words."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

import modelserve as ms
from modelserve.deploy.kubernetes import noted
from modelserve.errors import ConfigError, TargetError, TargetRefused, TargetUnreachable
from tests.deploy.kubernetes.fake import LIMITED, Fake, fates

WAIT_S = 30


def serve(function: ms.Function, **given: Any) -> ms.Run:
    return function.run("serve", target="kubernetes", **given)


def failure(run: ms.Run) -> str:
    """Why it does not become ready; well before its deadline."""
    began = time.monotonic()
    with pytest.raises(ms.RunFailed) as found:
        run.wait(timeout=WAIT_S, log_info=False)
    assert time.monotonic() - began < WAIT_S / 2
    head = f"the run {run.id} is ERROR: "
    assert found.value.message.startswith(head)
    assert run.state == "ERROR"
    assert run.alive, "the cluster goes on trying"
    return found.value.message.removeprefix(head)


def healed(fake: Fake, run: ms.Run) -> None:
    """Somebody has put right what was wrong: the run answers without being asked for again."""
    fake.fate = fates.READY
    deadline = time.monotonic() + WAIT_S
    while run.refresh().state != "RUNNING":
        assert time.monotonic() < deadline, run.status.message
        time.sleep(0.05)
    assert [step["status"] for step in run.status.transitions[:3]] == ["RUNNING", "PENDING", "RESUME"]


class TestPods:
    def test_an_image_that_is_not_there(self, fake: Fake, bert: ms.Function) -> None:
        words = 'failed to resolve reference "docker.io/library/modelserve:9": pull access denied'
        fake.fate = fates.no_image(words)
        run = serve(bert, image="modelserve:9")
        said = failure(run)
        assert said.startswith("the image modelserve:9 cannot be pulled: ")
        assert words in said
        healed(fake, run)

    def test_a_server_that_ends_again_and_again(self, fake: Fake, bert: ms.Function) -> None:
        fake.fate = fates.crash("loading", "ConfigError: there is no such model", code=2)
        said = failure(serve(bert))
        cause, *lines = said.splitlines()
        assert cause.startswith("the server in the pod bert-")
        assert "ends with exit code 2, " in cause
        assert cause.endswith("its last lines:")
        assert lines == ["loading", "ConfigError: there is no such model"]

    def test_a_long_log_keeps_the_cause(self, fake: Fake, bert: ms.Function) -> None:
        fake.fate = fates.crash(*(f"line {number} {'x' * 300}" for number in range(50)), "the end", code=1)
        said = failure(serve(bert))
        assert said.startswith("the server in the pod bert-")
        assert said.endswith("the end")

    def test_too_little_memory(self, fake: Fake, bert: ms.Function) -> None:
        fake.fate = fates.oom("loading weights")
        run = serve(bert, resources={"mem": {"limits": "32Mi"}})
        said = failure(run)
        assert "took more memory than its limit and was killed (OOMKilled)" in said
        assert "give it more with resources mem" in said
        assert said.endswith("loading weights")
        fake.fate = fates.READY
        run.update(resources={"mem": "4Gi"}, wait=True, timeout=WAIT_S, log_info=False)
        assert run.state == "RUNNING"

    @pytest.mark.slow
    def test_no_node(self, fake: Fake, bert: ms.Function, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(noted, "_PATIENCE_S", 0.5)
        run = serve(bert, resources={"gpu": {"requests": "99", "limits": "99"}})
        said = failure(run)
        assert said.startswith(
            "no node of the cluster takes the pod: 0/2 nodes are available: 1 Insufficient nvidia.com"
        )
        fake.node.capacity["nvidia.com/gpu"] = "100"
        healed(fake, run)

    def test_no_node_yet(self, fake: Fake, bert: ms.Function) -> None:
        """Nodes and disks may be on their way: that is no failure for half a minute."""
        fake.fate = fates.unschedulable()
        run = serve(bert)
        with pytest.raises(ms.WaitTimeout, match=r"a node, 0 of 1 pods answer: no node .* 2 Insufficient cpu"):
            run.wait(timeout=1.0, log_info=False)
        assert run.state == "PENDING"
        fake.fate = fates.READY
        run.wait(timeout=WAIT_S, log_info=False)

    def test_a_secret_of_the_cluster_that_is_missing(self, fake: Fake, bert: ms.Function) -> None:
        run = serve(bert, secrets=["secret://absent/HF_TOKEN"])
        assert failure(run) == 'the container modelserve cannot be made: secret "absent" not found'
        fake.add({"kind": "Secret", "metadata": {"name": "absent"}, "data": {"HF_TOKEN": "YQ=="}})
        healed(fake, run)

    def test_a_claim_that_is_missing(self, fake: Fake, bert: ms.Function) -> None:
        run = serve(bert, model_cache={"claim_name": "absent"})
        assert failure(run).endswith('0/2 nodes are available: persistentvolumeclaim "absent" not found. not found')

    def test_the_deadline(self, fake: Fake, bert: ms.Function) -> None:
        fake.fate = fates.unready("still loading")
        fake.seconds = 0.002
        said = failure(serve(bert, startup_timeout=30))
        assert said.startswith(("its pods did not answer in time: ", "the server in the pod bert-"))
        assert said.endswith("still loading")

    def test_a_second_container(self, fake: Fake, bert: ms.Function, home: Path) -> None:
        profiles = home / "profiles"
        profiles.mkdir(parents=True)
        side = "kind: Deployment\nspec: {template: {spec: {containers: [{name: proxy, image: proxy:1}]}}}\n"
        (profiles / "side.yaml").write_text(f"id: side\n---\n{side}")
        fake.fate = fates.no_image(container="proxy")
        assert failure(serve(bert, profile="side")).startswith("the image proxy:1 cannot be pulled")


class TestQuota:
    def test_of_pods(self, fake: Fake, bert: ms.Function) -> None:
        fake.quota({"pods": "0"})
        run = serve(bert)
        said = failure(run)
        assert said.startswith("the cluster makes no pods for it: pods ")
        assert "exceeded quota: quota, requested: pods=1, used: pods=0, limited: pods=0" in said

    def test_of_objects(self, fake: Fake, bert: ms.Function) -> None:
        fake.quota({"count/services": "0"})
        with pytest.raises(TargetRefused, match="exceeded quota: quota, requested: count/services=1"):
            serve(bert)
        assert fake.everything("default") == []
        assert ms.list_runs() == []


class TestRefused:
    def test_forbidden(self, fake: Fake, bert: ms.Function, home: Path) -> None:
        config = str(fake.kubeconfig(home.parent / "limited", token=LIMITED))
        with pytest.raises(TargetRefused) as found:
            serve(bert, kubeconfig=config)
        assert found.value.status == 403
        assert found.value.message.startswith("the cluster refuses to apply Deployment bert-")
        assert 'User "limited" cannot' in found.value.message
        assert ms.list_runs() == []

    @pytest.mark.parametrize(("token", "words"), [("wrong", "does not know you (401 Unauthorized)"), ("", "anonymous")])
    def test_nobody(self, fake: Fake, bert: ms.Function, home: Path, token: str, words: str) -> None:
        with pytest.raises(TargetRefused) as found:
            serve(bert, kubeconfig=str(fake.kubeconfig(home.parent / "other", token=token)))
        assert words in found.value.message

    def test_forbidden_in_between(self, fake: Fake, bert: ms.Function) -> None:
        """Nothing is left of a run that got half of its objects."""
        original = bert._store.create

        def create(record: Any) -> Any:
            if record.type == "run":
                fake.deny("patch", "services")
            return original(record)

        bert._store.create = create  # type: ignore[method-assign]
        with pytest.raises(TargetRefused, match="the cluster refuses to apply Service bert-"):
            serve(bert)
        fake.wait(lambda: not fake.everything("default"))
        (left,) = ms.list_runs()
        assert (left.state, left.alive) == ("ERROR", False)
        assert "the cluster refuses to apply Service" in left.status.message
        left.delete()

    def test_a_namespace_that_is_not_there(self, bert: ms.Function) -> None:
        with pytest.raises(TargetRefused, match="has no namespace 'none'; make it with: kubectl create namespace none"):
            serve(bert, namespace="none")
        assert ms.list_runs() == []

    def test_kserve_that_is_not_there(self, bert: ms.Function) -> None:
        with pytest.raises(TargetRefused, match=r"does not know serving.kserve.io/v1alpha1 ServingRuntime, which"):
            serve(bert, flavor="kserve")

    def test_no_kubeconfig(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(home.parent))
        function = ms.new_function("demo", "bert", "huggingfaceserve", path="hf://org/bert")
        with pytest.raises(ConfigError, match=r"no cluster is configured: there is no ~/.kube/config, KUBECONFIG"):
            serve(function)

    @pytest.mark.slow
    def test_busy(self, fake: Fake, bert: ms.Function) -> None:
        """What the server puts off is asked again."""
        fake.fail(429, 2)
        fake.fail(503, 1)
        serve(bert).wait(timeout=WAIT_S, log_info=False)

    @pytest.mark.slow
    def test_busy_for_ever(self, fake: Fake, bert: ms.Function) -> None:
        fake.fail(503, 100)
        with pytest.raises(TargetRefused, match=r"\(503\)"):
            serve(bert)

    def test_a_mistake_is_not_asked_again(self, fake: Fake, bert: ms.Function) -> None:
        fake.fail(500, 1)
        with pytest.raises(TargetRefused, match=r"\(500\)"):
            serve(bert)


class TestUnreachable:
    def test_before_it_is_there(self, fake: Fake, bert: ms.Function) -> None:
        fake.vanish()
        with pytest.raises(TargetUnreachable, match=r"the cluster fake \(http://127.0.0.1:\d+\) does not answer: C"):
            serve(bert)
        assert ms.list_runs() == []

    @pytest.mark.slow
    def test_while_it_is_waited_for(self, fake: Fake, bert: ms.Function, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("modelserve.deploy.waiting._SILENT_S", 0.5)
        fake.fate = fates.unready()
        run = serve(bert)
        fake.vanish()
        with pytest.raises(TargetUnreachable, match="does not answer"):
            run.wait(timeout=WAIT_S, log_info=False)

    def test_for_a_moment(self, fake: Fake, bert: ms.Function) -> None:
        fake.fate = fates.unready()
        run = serve(bert)
        fake.vanish()
        fake.fate = fates.READY

        def back() -> None:
            time.sleep(1.0)
            fake.come_back()

        thread = threading.Thread(target=back)
        thread.start()
        run.wait(timeout=WAIT_S, log_info=False)
        thread.join()
        assert run.state == "RUNNING"

    def test_a_server_that_hangs(self, fake: Fake, bert: ms.Function, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("modelserve.deploy.kubernetes.cluster._READ_S", 0.3)
        fake.hang()
        began = time.monotonic()
        with pytest.raises(TargetUnreachable, match=r"does not answer: .*timed out"):
            serve(bert)
        assert time.monotonic() - began < 10
        fake.resume()

    def test_others_are_listed_all_the_same(
        self, fake: Fake, bert: ms.Function, caplog: pytest.LogCaptureFixture
    ) -> None:
        runs = [serve(bert, wait=True, timeout=WAIT_S, log_info=False) for _ in range(2)]
        fake.vanish()
        assert [one.state for one in ms.list_runs()] == ["RUNNING", "RUNNING"]
        assert (
            len([one for one in caplog.records if "what is said of its runs is what was seen last" in one.message]) == 1
        )
        with pytest.raises(TargetUnreachable):
            runs[0].delete()
        runs[0].delete(forget=True)
        assert len(ms.list_runs()) == 1
        with pytest.raises(TargetUnreachable):
            runs[1].stop()
        fake.come_back()
        runs[1].refresh().delete()

    def test_watches_that_are_cut_and_expire(self, fake: Fake, bert: ms.Function) -> None:
        fake.fate = fates.unready()
        fake.cut_every(1)
        run = serve(bert)
        for _ in range(5):
            fake.cut_watches()
            fake.expire()
            with pytest.raises(ms.WaitTimeout):
                run.wait(timeout=0.3, log_info=False)
        fake.fate = fates.READY
        run.wait(timeout=WAIT_S, log_info=False)

    def test_no_right_to_watch(self, fake: Fake, bert: ms.Function) -> None:
        """A look every few seconds does, too."""
        fake.deny("watch", "*")
        serve(bert, wait=True, timeout=WAIT_S, log_info=False)


def test_what_was_running_says_how_much_of_it_is(fake: Fake, bert: ms.Function) -> None:
    run = serve(bert, replicas=2, resources={"cpu": "1"}, wait=True, timeout=WAIT_S, log_info=False)
    fake.node.capacity["cpu"] = "1"
    fake.remove("Pod", fake.objects("Pod")[0]["metadata"]["name"])
    deadline = time.monotonic() + WAIT_S
    while not (run.refresh().status.message or "").startswith("1 of 2 pods answer: no node of the cluster takes"):
        assert time.monotonic() < deadline, run.status.message
    assert run.state == "RUNNING", "one pod answers"


def test_a_run_that_nobody_has_started(fake: Fake, bert: ms.Function) -> None:
    with pytest.raises(TargetError):
        serve(bert, namespace="none")
    assert ms.list_functions()[0].list_runs() == []
