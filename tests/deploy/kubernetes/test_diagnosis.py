"""What recorded pods, events and deployments say about a run: the cause, and whether waiting helps."""

from __future__ import annotations

from typing import Any

import pytest

from modelserve.deploy.kubernetes import diagnosis, trouble
from modelserve.deploy.kubernetes.diagnosis import Snapshot
from tests.deploy.kubernetes.recorded import exchanges

Json = dict[str, Any]


def recorded(title: str) -> Json:
    (found,) = (one.response for one in exchanges() if one.title == title)
    return dict(found)


def events(pod: str) -> list[Json]:
    return [one for one in recorded("warning events")["items"] if one["involvedObject"]["name"] == pod]


def snapshot(name: str) -> Snapshot:
    pods = recorded(f"after its deadline: pods of {name}")["items"]
    named = {pod["metadata"]["name"]: events(pod["metadata"]["name"]) for pod in pods}
    return Snapshot("Deployment", recorded(f"after its deadline: deployment {name}"), tuple(pods), named)


CAUSES = {
    "noimage": "the image lab.local/absent:1 cannot be pulled: Container image "
    '"lab.local/absent:1" is not present with pull policy of Never',
    "crash": "the server in the pod POD ends with exit code 7, 2 times so far",
    "oom": "the server in the pod POD took more memory than its limit and was killed (OOMKilled), 2 times so far; give "
    "it more with resources mem",
    "nosecret": 'the container c cannot be made: secret "absent" not found',
    "nopvc": "no node of the cluster takes the pod: 0/2 nodes are available: persistentvolumeclaim "
    '"absent" not found. not found',
    "toobig": "no node of the cluster takes the pod: 0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) "
    "were unschedulable. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not "
    "helpful for scheduling.",
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_recorded_failure(name: str) -> None:
    seen = snapshot(name)
    (pod,) = (one["metadata"]["name"] for one in seen.pods)
    found = diagnosis.of(seen, was_running=False)
    assert found.message == CAUSES[name].replace("POD", pod)
    assert found.suspect == pod
    assert (found.state, found.patience) == (("PENDING", True) if name == "toobig" else ("ERROR", False))


def test_a_recorded_deadline() -> None:
    found = diagnosis.of(snapshot("unready"), was_running=False)
    assert found.state == "ERROR"
    assert found.message.startswith("its pods did not answer in time: Readiness probe failed: Get ")


def test_a_recorded_deployment_that_answers() -> None:
    pods = tuple(recorded("pods of it")["items"])
    found = diagnosis.of(Snapshot("Deployment", recorded("deployment available"), pods, {}), was_running=False)
    assert (found.state, found.message, found.fraction) == ("RUNNING", "", 1.0)


def test_what_the_cluster_has_not_looked_at_says_nothing() -> None:
    """Its status is that of the specification before."""
    serving = recorded("deployment available")
    serving = serving | {"metadata": serving["metadata"] | {"generation": 2}}
    found = diagnosis.of(Snapshot("Deployment", serving, (), {}), was_running=False)
    assert (found.state, found.stage) == ("PENDING", "waiting for the cluster")


def pod(status: Json, name: str = "p", begun: str = "1") -> Json:
    return {"metadata": {"name": name, "annotations": {"modelserve/begun": begun}}, "status": status}


def container(state: Json, **more: Any) -> Json:
    return {"containerStatuses": [{"name": "c", "image": "i:1", "restartCount": 0, "state": state, **more}]}


@pytest.mark.parametrize(
    ("status", "told", "message", "fatal"),
    [
        (container({"waiting": {"reason": "ErrImagePull", "message": "no route"}}), (), "pulled: no route", False),
        (
            container({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}),
            ({"reason": "Failed", "message": 'Failed to pull image "i:1": unauthorized'},),
            'cannot be pulled: Failed to pull image "i:1": unauthorized',
            True,
        ),
        (container({"waiting": {"reason": "InvalidImageName"}}), (), "cannot be pulled: InvalidImageName", True),
        (container({"waiting": {"reason": "ContainerCreating"}}), (), "", False),
        (
            container({"waiting": {"reason": "ContainerCreating"}}),
            ({"type": "Warning", "reason": "FailedMount", "message": 'MountVolume.SetUp: configmap "a" not found'},),
            'MountVolume.SetUp: configmap "a" not found',
            True,
        ),
        (
            container({"waiting": {"reason": "ContainerCreating"}}),
            ({"type": "Warning", "reason": "FailedMount", "message": "timed out waiting for the disk"},),
            "timed out waiting for the disk",
            False,
        ),
        (
            container(
                {"waiting": {"reason": "CrashLoopBackOff"}}, restartCount=2, lastState={"terminated": {"exitCode": 137}}
            ),
            ({"reason": "Killing", "message": "Container c failed startup probe, will be restarted"},),
            "ends with exit code 137, 3 times so far; Container c failed startup probe, will be restarted",
            True,
        ),
        (container({"terminated": {"exitCode": 1}}), (), "", False),
        (container({"running": {}}, lastState={"terminated": {"exitCode": 1}}, restartCount=1), (), "", False),
        (
            container({"running": {}}, lastState={"terminated": {"reason": "OOMKilled"}}, restartCount=1),
            (),
            "(OOMKilled), once so far",
            True,
        ),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, (), "failed: Evicted: low on", False),
        ({"initContainerStatuses": [{"state": {"waiting": {"reason": "StartError"}}}]}, (), "cannot", False),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]},
            (),
            "",
            False,
        ),
    ],
)  # fmt: skip
def test_a_pod(status: Json, told: tuple[Json, ...], message: str, fatal: bool) -> None:
    found = trouble.of(pod(status), told)
    assert message in found.message
    assert bool(message) == bool(found.message)
    assert found.fatal == fatal


def test_a_node_that_is_being_made() -> None:
    """A cluster's autoscaler works on it: no failure, however long that takes."""
    status = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1"}]}
    found = trouble.of(pod(status), [{"reason": "TriggeredScaleUp", "message": "pod triggered scale-up"}])
    assert (found.message, found.fatal, found.patience) == ("a node for the pod is being made", False, False)


def test_pods_of_a_former_start_do_not_count() -> None:
    crashed = container({"waiting": {"reason": "CrashLoopBackOff"}}, lastState={"terminated": {"exitCode": 1}})
    template = {"metadata": {"annotations": {"modelserve/begun": "2"}}}
    serving = {
        "metadata": {"generation": 1},
        "spec": {"replicas": 1, "template": template},
        "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 1},
    }
    pods = (pod(crashed, "old", "1"), pod(container({"running": {}}), "new", "2"))
    found = diagnosis.of(Snapshot("Deployment", serving, pods, {}), was_running=False)
    assert (found.state, found.message) == ("PENDING", "0 of 1 pods answer, 1 are as before the change")
