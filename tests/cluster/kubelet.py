"""What nodes would say of the pods of a namespace, on a cluster that has none: their status is patched, in a thread.

No container runs. The statuses and the events beside them are those that a real kubelet and scheduler of 1.36 gave, as
recorded in kubernetes-api.jsonl (exchanges 31 to 71).
"""

from __future__ import annotations

import datetime
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tests.cluster.api import Api, Json, in_namespace, pods

ADDRESS = "192.0.2.9"
"""Of nobody."""
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of a pod: its status, and Warning events as (reason, message)."""

    status: Json
    events: tuple[tuple[str, str], ...] = field(default=())


Saying = Callable[[Json], Said | None]
"""Pod -> what to say of it; None for nothing yet."""


class Kubelet:
    """Says the same of every pod of the namespace until something else is to be said. As a context manager."""

    def __init__(self, api: Api, namespace: str, saying: Saying) -> None:
        self._api = api
        self._namespace = namespace
        self._saying = saying
        self._told: dict[str, Saying] = {}
        self._end = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)

    def say(self, saying: Saying) -> None:
        self._saying = saying

    def __enter__(self) -> Kubelet:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(60)
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._end.wait(_LOOK_S):
                saying = self._saying
                for pod in self._api.get(pods(self._namespace)).ok()["items"]:
                    uid = pod["metadata"]["uid"]
                    if self._told.get(uid) is not saying and "deletionTimestamp" not in pod["metadata"]:
                        self._tell(pod, saying)
                        self._told[uid] = saying
        except BaseException as error:  # raised where the test ends
            self._error = error

    def _tell(self, pod: Json, saying: Saying) -> None:
        if (said := saying(pod)) is None:
            return
        name = pod["metadata"]["name"]
        answer = self._api.merge(pods(self._namespace, name, "status"), {"status": said.status})
        assert answer.status in (200, 404), answer.text  # it may be gone by now
        for reason, message in said.events if answer.status == 200 else ():
            self._event(pod, reason, message)

    def _event(self, pod: Json, reason: str, message: str) -> None:
        names = {"kind": "Pod", "apiVersion": "v1"}
        names |= {key: pod["metadata"][key] for key in ("name", "namespace", "uid")}
        event = {
            "metadata": {"name": f"{pod['metadata']['name']}.{uuid.uuid4().hex[:16]}"},
            "involvedObject": names,
            "reason": reason,
            "message": message,
            "type": "Warning",
            "source": {"component": "kubelet"},
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        answer = self._api.create(in_namespace("v1", self._namespace, "events"), event)
        assert answer.status in (201, 403), answer.text  # the namespace may be on its way out


def nothing(pod: Json) -> Said | None:
    """As if no node had seen it yet."""
    return None


def ready(pod: Json) -> Said:
    running = {"state": {"running": {"startedAt": now()}}, "lastState": {}, "ready": True, "started": True}
    return Said(_on_a_node("Running", True, _containers(pod, running)))


def loading(pod: Json) -> Said:
    """Its container runs, and does not answer yet (unready, 63)."""
    running = {"state": {"running": {"startedAt": now()}}, "lastState": {}, "ready": False, "started": False}
    message = f'Startup probe failed: Get "http://{ADDRESS}:8080/v2/health/ready": connection refused'
    return Said(_on_a_node("Running", False, _containers(pod, running)), (("Unhealthy", message),))


def image_never_there(pod: Json) -> Said:
    """noimage, 51."""
    image = pod["spec"]["containers"][0]["image"]
    message = f'Container image "{image}" is not present with pull policy of Never'
    events = (("ErrImageNeverPull", message), ("Failed", "Error: ErrImageNeverPull"))
    return _waiting(pod, "ErrImageNeverPull", message, events)


def image_pull_back_off(pod: Json) -> Said:
    image = pod["spec"]["containers"][0]["image"]
    why = f'Failed to pull image "{image}": rpc error: code = NotFound desc = failed to resolve reference: not found'
    events = (("Failed", why), ("Failed", "Error: ErrImagePull"), ("Failed", "Error: ImagePullBackOff"))
    return _waiting(pod, "ImagePullBackOff", f'Back-off pulling image "{image}"', events)


def secret_missing(pod: Json) -> Said:
    """nosecret, 60."""
    message = 'secret "absent" not found'
    return _waiting(pod, "CreateContainerConfigError", message, (("Failed", f"Error: {message}"),))


def crash_loop(pod: Json) -> Said:
    """crash, 54, a moment later."""
    return _loop(pod, {"exitCode": 7, "reason": "Error"})


def oom_killed(pod: Json) -> Said:
    """oom, 66, a moment later."""
    return _loop(pod, {"exitCode": 137, "reason": "OOMKilled"})


def unschedulable(pod: Json) -> Said:
    """toobig, 57."""
    return unscheduled("0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) were unschedulable.")


def claim_missing(pod: Json) -> Said:
    """nopvc, 69."""
    return unscheduled('0/2 nodes are available: persistentvolumeclaim "absent" not found. not found')


def unscheduled(message: str) -> Said:
    """message: the scheduler's."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return Said(
        {"phase": "Pending", "conditions": [condition | {"lastTransitionTime": now()}]},
        (("FailedScheduling", message),),
    )


def _waiting(pod: Json, reason: str, message: str, events: tuple[tuple[str, str], ...]) -> Said:
    state = {"state": {"waiting": {"reason": reason, "message": message}}, "lastState": {}, "started": False}
    return Said(_on_a_node("Pending", False, _containers(pod, state | {"ready": False})), events)


def _loop(pod: Json, ended: Json) -> Said:
    name = pod["metadata"]["name"]
    ended = ended | {"startedAt": now(), "finishedAt": now(), "containerID": "containerd://" + "0" * 64}
    back_off = f"back-off 10s restarting failed container in pod {name}"
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": back_off}}
    state = {"state": waiting, "lastState": {"terminated": ended}, "restartCount": 2, "ready": False, "started": False}
    events = (("BackOff", f"Back-off restarting failed container in pod {name}"),)
    return Said(_on_a_node("Running", False, _containers(pod, state)), events)


def _containers(pod: Json, state: Json) -> list[Json]:
    of_all = {"restartCount": 0, "imageID": ""}
    return [of_all | {"name": one["name"], "image": one["image"]} | state for one in pod["spec"]["containers"]]


def _on_a_node(phase: str, is_ready: bool, containers: list[Json]) -> Json:
    said: dict[str, Any] = {"status": "True"}
    if not is_ready:
        names = " ".join(one["name"] for one in containers)
        reason = {"reason": "ContainersNotReady", "message": f"containers with unready status: [{names}]"}
        said = {"status": "False"} | reason
    conditions = [
        {"type": "Initialized", "status": "True"},
        {"type": "Ready"} | said,
        {"type": "ContainersReady"} | said,
        {"type": "PodScheduled", "status": "True"},
    ]
    return {
        "phase": phase,
        "conditions": [one | {"lastTransitionTime": now()} for one in conditions],
        "hostIP": "192.0.2.2",
        "podIP": ADDRESS,
        "podIPs": [{"ip": ADDRESS}],
        "startTime": now(),
        "containerStatuses": containers,
    }


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
