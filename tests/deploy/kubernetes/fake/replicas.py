"""The ReplicaSet controller: as many pods as are wanted. Whoever calls holds the store's lock.

Not recorded: pods that a quota refuses, which are tried again ever later.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.deploy.kubernetes.fake import kinds
from tests.deploy.kubernetes.fake.defaults import suffix
from tests.deploy.kubernetes.fake.deployments import owned, reference
from tests.deploy.kubernetes.fake.events import tell
from tests.deploy.kubernetes.fake.kinds import Object
from tests.deploy.kubernetes.fake.objects import Objects, copied, stamp
from tests.deploy.kubernetes.fake.status import Refused
from tests.deploy.kubernetes.fake.writes import added, removed

NEVER = float("inf")
_LONGEST_S = 16.0


@dataclass(slots=True)
class _Refusal:
    again: float
    pause: float


class ReplicaSets:
    """The controller, which remembers what it was refused."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._refused: dict[str, _Refusal] = {}

    def sync(self, now: float) -> float:
        due = NEVER
        for found in self._objects.all(kinds.REPLICA_SET):
            if "deletionTimestamp" not in found["metadata"]:
                due = min(due, self._one(found, now))
        return due

    def _one(self, found: Object, now: float) -> float:
        pods = owned(self._objects, kinds.POD, found)
        active = [
            one
            for one in pods
            if "deletionTimestamp" not in one["metadata"]
            and one.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        ]
        missing = found["spec"]["replicas"] - len(active)
        uid = found["metadata"]["uid"]
        due = NEVER
        if missing > 0:
            due = self._make(found, missing, now)
        elif missing < 0:
            # Those that are not ready go first, then the youngest.
            for one in sorted(active, key=_worth)[:-missing]:
                tell(
                    self._objects, found, "SuccessfulDelete", f"Deleted pod: {one['metadata']['name']}",
                    component="replicaset-controller",
                )  # fmt: skip
                removed(self._objects, kinds.POD, one, "Background")
        else:
            self._refused.pop(uid, None)
        self._report(found)
        return due

    def _make(self, found: Object, missing: int, now: float) -> float:
        uid, namespace = found["metadata"]["uid"], found["metadata"]["namespace"]
        refusal = self._refused.get(uid)
        if refusal and now < refusal.again:
            return refusal.again
        for _ in range(missing):
            try:
                pod = added(self._objects, kinds.POD, namespace, _pod(found))
            except Refused as refused:
                words = f"Error creating: {refused}"
                tell(self._objects, found, "FailedCreate", words, warning=True, component="replicaset-controller")
                pause = min(refusal.pause * 2, _LONGEST_S) if refusal else 1.0
                self._refused[uid] = _Refusal(now + pause, pause)
                found["status"]["conditions"] = [_failure(str(refused), found)]
                return now + pause
            name = pod["metadata"]["name"]
            tell(self._objects, found, "SuccessfulCreate", f"Created pod: {name}", component="replicaset-controller")
        self._refused.pop(uid, None)
        return NEVER

    def _report(self, found: Object) -> None:
        pods = owned(self._objects, kinds.POD, found)
        active = [
            one
            for one in pods
            if "deletionTimestamp" not in one["metadata"] and one["status"].get("phase") not in ("Succeeded", "Failed")
        ]
        ready = sum(map(is_ready, active))
        counts = {
            "fullyLabeledReplicas": len(active), "readyReplicas": ready, "availableReplicas": ready,
        }  # fmt: skip
        status: Object = {"replicas": len(active)} | {key: value for key, value in counts.items() if value}
        status |= {
            "terminatingReplicas": sum("deletionTimestamp" in one["metadata"] for one in pods),
            "observedGeneration": found["metadata"]["generation"],
        }
        conditions = found["status"].get("conditions")
        if conditions and found["metadata"]["uid"] in self._refused:
            status["conditions"] = conditions
        found["status"] = status
        self._objects.put(kinds.REPLICA_SET, found)


def is_ready(pod: Object) -> bool:
    return any(
        one["type"] == "Ready" and one["status"] == "True" for one in pod.get("status", {}).get("conditions", [])
    )


def _worth(pod: Object) -> tuple[bool, bool, int]:
    """Less for those that go first: without a node, not ready, young."""
    return bool(pod["spec"].get("nodeName")), is_ready(pod), -int(pod["metadata"]["resourceVersion"])


def _pod(owner: Object) -> Object:
    template = copied(owner["spec"]["template"])
    name = owner["metadata"]["name"]
    metadata = {"name": f"{name}-{suffix()}", "generateName": f"{name}-"} | template.get("metadata", {})
    metadata["ownerReferences"] = [reference(owner)]
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": template["spec"]}


def _failure(words: str, found: Object) -> Object:
    last = next(iter(found["status"].get("conditions", [])), None)
    since = last["lastTransitionTime"] if last else stamp()
    return {
        "type": "ReplicaFailure", "status": "True", "lastTransitionTime": since, "reason": "FailedCreate",
        "message": words,
    }  # fmt: skip
