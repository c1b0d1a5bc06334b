"""A scheduler and a kubelet as a state machine: what becomes of each pod, step by step, with its events and its log.

The statuses are the recorded ones. Not recorded: images that cannot be pulled (but for pull policy Never), init
containers, volumes that cannot be mounted, evictions. Whoever calls holds the store's lock.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.deploy.kubernetes.fake import containers, kinds, needs, scheduler
from tests.deploy.kubernetes.fake.containers import Box
from tests.deploy.kubernetes.fake.events import NODE, tell
from tests.deploy.kubernetes.fake.fates import Fate
from tests.deploy.kubernetes.fake.kinds import Object
from tests.deploy.kubernetes.fake.logs import Logs
from tests.deploy.kubernetes.fake.objects import Objects, copied, stamp
from tests.deploy.kubernetes.fake.scheduler import Node

_SANDBOX_S = 0.2
_HOST = "192.0.2.2"
NEVER = float("inf")


@dataclass(slots=True)
class Life:
    """What the kubelet remembers of one pod."""

    boxes: dict[str, Box] = field(default_factory=dict)
    sandbox: float | None = None
    """When it is there."""
    ending: float | None = None
    address: str = ""
    told: str = ""
    """The last fault of its volumes that was told."""


class Kubelet:
    """ending: the cluster's seconds that a pod takes to end, at most its grace."""

    def __init__(self, objects: Objects, logs: Logs, fate: Callable[[Object, str], Fate]) -> None:
        self._objects, self._logs, self._fate = objects, logs, fate
        self.node = Node()
        self.ending = 1.0
        self._lives: dict[str, Life] = {}

    def sync(self, now: float) -> float:
        """Every pod's next step that is due. When the next one is."""
        due = NEVER
        pods = self._objects.all(kinds.POD)
        for pod in pods:
            due = min(due, self._pod(pod, now))
        known = {pod["metadata"]["uid"] for pod in pods}
        for uid in [uid for uid in self._lives if uid not in known]:
            self._logs.end(uid)
            del self._lives[uid]
        return due

    def _pod(self, pod: Object, now: float) -> float:
        life = self._lives.setdefault(pod["metadata"]["uid"], Life())
        if "deletionTimestamp" in pod["metadata"]:
            return self._end(pod, life, now)
        before = copied(pod)
        if pod.get("status", {}).get("phase") in ("Failed", "Succeeded"):
            return NEVER
        if not pod["spec"].get("nodeName") and not self._schedule(pod):
            self._write(before, pod)
            return NEVER
        due = self._run(pod, life, now)
        self._write(before, pod)
        return due

    def _write(self, before: Object, pod: Object) -> None:
        if pod != before:
            self._objects.put(kinds.POD, pod)

    def _end(self, pod: Object, life: Life, now: float) -> float:
        if life.ending is None:
            life.ending = now + min(pod["metadata"].get("deletionGracePeriodSeconds", 0), self.ending)
            for name, box in life.boxes.items():
                if "running" in box.state:
                    tell(self._objects, pod, "Killing", f"Stopping container {name}", container=name)
        if now < life.ending:
            return life.ending
        self._logs.end(pod["metadata"]["uid"])
        self._objects.remove(kinds.POD, pod["metadata"]["namespace"], pod["metadata"]["name"])
        return NEVER

    def _schedule(self, pod: Object) -> bool:
        words = self._fate(pod, "").unscheduled or scheduler.fault(self._objects, self.node, pod)
        status = pod["status"] = pod.get("status") or {}
        status["phase"] = "Pending"
        if words:
            scheduled = {"reason": "Unschedulable", "message": words}
            if scheduler.condition(status, "PodScheduled", "False", **scheduled):
                tell(self._objects, pod, "FailedScheduling", words, warning=True, component="default-scheduler")
            status["qosClass"] = containers.quality(pod["spec"])
            return False
        pod["spec"]["nodeName"] = NODE
        status.pop("conditions", None)
        scheduler.condition(status, "PodScheduled", "True")
        where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        message = f"Successfully assigned {where} to {NODE}"
        tell(self._objects, pod, "Scheduled", message, component="default-scheduler")
        return True

    def _run(self, pod: Object, life: Life, now: float) -> float:
        spec = pod["spec"]
        if not life.boxes:
            self._admit(pod, life, now)
        fault = needs.volumes(self._objects, pod)
        if fault and life.sandbox is not None and not life.address:
            if life.told != fault:
                tell(self._objects, pod, "FailedMount", fault, warning=True)
                life.told = fault
            containers.report(pod, life.boxes, life.address)
            return NEVER
        if life.sandbox is not None and now < life.sandbox:
            containers.report(pod, life.boxes, life.address)
            return life.sandbox
        if not life.address:
            life.address = f"10.89.{random.randint(0, 255)}.{random.randint(2, 254)}"
        due = NEVER
        waits = False
        for part, one in self._each(spec):
            box = life.boxes[one["name"]]
            if waits and part == "containers":
                break
            fate = self._of(pod, one, part)
            if fate.evicted and now >= (box.since or now) + fate.after and box.step == "running":
                self._evict(pod, life, fate)
                return NEVER
            step = containers.Step(self._objects, self._logs, pod, one, part, fate, life.address)
            due = min(due, step.run(box, now, missing=self._missing(one)))
            if fate.evicted and box.step == "running":
                due = min(due, box.since + fate.after)
            if part == "initContainers" and not containers.passed(one, box) and not self._begun(life, spec):
                waits = True
                break
        containers.report(pod, life.boxes, life.address)
        return due

    def _admit(self, pod: Object, life: Life, now: float) -> None:
        life.sandbox = now + _SANDBOX_S
        for part, one in self._each(pod["spec"]):
            waits = part == "containers" and bool(pod["spec"].get("initContainers"))
            life.boxes[one["name"]] = Box("PodInitializing" if waits else "ContainerCreating")
        pod["status"] |= {"hostIP": _HOST, "hostIPs": [{"ip": _HOST}], "startTime": stamp()}
        uid, metadata = pod["metadata"]["uid"], pod["metadata"]
        name = f"{metadata['name']}_{metadata['namespace']}({uid})"
        # As on the recorded cluster: a warning that means nothing.
        words = (
            f'pod: "{name}". kubelet does not have ClusterDNS IP configured and cannot create Pod using "ClusterFirst" '
            'policy. Falling back to "Default" policy.'
        )
        tell(self._objects, pod, "MissingClusterDNS", words, warning=True)

    @staticmethod
    def _begun(life: Life, spec: Object) -> bool:
        """Whether the init containers have been passed once; a sidecar that ends later is started again by itself."""
        return any(life.boxes[one["name"]].id for one in spec["containers"])

    @staticmethod
    def _each(spec: Object) -> list[tuple[str, Object]]:
        found = [("initContainers", one) for one in spec.get("initContainers", [])]
        return [*found, *(("containers", one) for one in spec["containers"])]

    def _of(self, pod: Object, one: Object, part: str) -> Fate:
        fate = self._fate(pod, one.get("image", ""))
        meant = fate.container == one["name"] or (not fate.container and part == "containers")
        return fate if meant else Fate()

    def _missing(self, one: Object) -> bool:
        return one.get("image", "") in self.node.absent

    def _evict(self, pod: Object, life: Life, fate: Fate) -> None:
        self._logs.end(pod["metadata"]["uid"])
        pod["status"] = {
            "phase": "Failed", "reason": "Evicted", "message": fate.evicted, "startTime": pod["status"]["startTime"],
            "conditions": [], "qosClass": pod["status"].get("qosClass", "BestEffort"),
        }  # fmt: skip
        for name, status in (("Ready", "False"), ("PodScheduled", "True")):
            scheduler.condition(pod["status"], name, status)
        tell(self._objects, pod, "Evicted", fate.evicted, warning=True)
        life.boxes = {str(uuid.uuid4()): Box("")}
