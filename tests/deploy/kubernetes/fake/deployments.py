"""The Deployment controller: ReplicaSets, rolling updates, the status and its conditions. After Kubernetes' own.

Recorded: conditions and their order, the words, the deadline. From its sources: the arithmetic of a rolling update.
Whoever calls holds the store's lock.
"""

from __future__ import annotations

import json
import math
import zlib
from typing import Any

from tests.deploy.kubernetes.fake import kinds
from tests.deploy.kubernetes.fake.events import tell
from tests.deploy.kubernetes.fake.kinds import Object
from tests.deploy.kubernetes.fake.objects import Objects, copied, stamp
from tests.deploy.kubernetes.fake.writes import added

NEVER = float("inf")
_HASH = "pod-template-hash"
_NOTE = "deployment.kubernetes.io/"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def owned(objects: Objects, kind: kinds.Kind, owner: Object) -> list[Object]:
    """The objects that it controls, oldest first."""
    uid = owner["metadata"]["uid"]
    found = [
        copied(one)
        for one in objects.look(kind)
        if any(ref["uid"] == uid and ref.get("controller") for ref in one["metadata"].get("ownerReferences", []))
    ]
    return sorted(found, key=lambda one: int(one["metadata"]["resourceVersion"]) if kind is kinds.POD else _age(one))


def _age(replica_set: Object) -> int:
    return int(replica_set["metadata"].get("annotations", {}).get(f"{_NOTE}revision", 0))


def reference(owner: Object) -> Object:
    return {
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip


class Deployments:
    """The controller, which remembers when each deployment last made progress."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._progress: dict[str, float] = {}

    def sync(self, now: float) -> float:
        """When one's deadline is."""
        due = NEVER
        for found in self._objects.all(kinds.DEPLOYMENT):
            if "deletionTimestamp" not in found["metadata"]:
                due = min(due, self._one(found, now))
        return due

    def _one(self, found: Object, now: float) -> float:
        sets = owned(self._objects, kinds.REPLICA_SET, found)
        new = next((one for one in sets if _template(one) == found["spec"]["template"]), None)
        old = [one for one in sets if one is not new]
        if new is None:
            new = self._new_set(found, sets, now)
            if new is None:
                return NEVER
        self._revise(found, new, old)
        old = self._roll(found, new, old)
        self._forget(found, old)
        sets = owned(self._objects, kinds.REPLICA_SET, found)
        return self._report(found, sets, new["metadata"]["name"], now)

    def _new_set(self, found: Object, sets: list[Object], now: float) -> Object | None:
        spec, metadata = found["spec"], found["metadata"]
        digits = str(zlib.crc32(json.dumps(spec["template"], sort_keys=True).encode()))
        mark = "".join(_LETTERS[int(one) * 7 % len(_LETTERS)] for one in digits)
        template = copied(spec["template"])
        labels = template.setdefault("metadata", {}).setdefault("labels", {})
        labels[_HASH] = mark
        selector = copied(spec["selector"])
        selector.setdefault("matchLabels", {})[_HASH] = mark
        name = f"{metadata['name']}-{mark}"
        revision = max([_age(one) for one in sets], default=0) + 1
        limit = surge(spec)
        replicas = min(spec["replicas"], max(0, spec["replicas"] + limit - sum(map(_wanted, sets))))
        if not sets:
            replicas = spec["replicas"]
        if spec["strategy"]["type"] == "Recreate" and any(map(_wanted, sets)):
            replicas = 0
        made: Object = {
            "kind": "ReplicaSet", "apiVersion": "apps/v1",
            "metadata": {
                "name": name, "labels": dict(labels), "annotations": _notes(spec, revision),
                "ownerReferences": [reference(found)],
            },
            "spec": {"replicas": replicas, "selector": selector, "template": template},
        }  # fmt: skip
        if spec.get("minReadySeconds"):
            made["spec"]["minReadySeconds"] = spec["minReadySeconds"]
        if "deletionTimestamp" in (self._objects.get(kinds.NAMESPACE, "", metadata["namespace"]) or {}).get(
            "metadata", {}
        ):
            return None
        new = added(self._objects, kinds.REPLICA_SET, metadata["namespace"], made)
        self._tell_scale(found, name, 0, replicas)
        status = found["status"]
        created = _condition("Progressing", "True", "NewReplicaSetCreated", f'Created new replica set "{name}"')
        _set(status, created)
        self._progress[metadata["uid"]] = now
        return new

    def _revise(self, found: Object, new: Object, old: list[Object]) -> None:
        """The revision's number: a template that comes back is the newest again."""
        newest = max([_age(one) for one in old], default=0)
        if _age(new) <= newest:
            new["metadata"].setdefault("annotations", {})[f"{_NOTE}revision"] = str(newest + 1)
            self._objects.put(kinds.REPLICA_SET, new)
        annotations = found["metadata"].setdefault("annotations", {})
        annotations[f"{_NOTE}revision"] = str(_age(new))

    def _roll(self, found: Object, new: Object, old: list[Object]) -> list[Object]:
        spec = found["spec"]
        wanted = spec["replicas"]
        active = [one for one in [new, *old] if _wanted(one)]
        if spec["strategy"]["type"] == "Recreate":
            for one in old:
                self._scale(found, one, 0)
            if not any(one["status"].get("replicas") or one["status"].get("terminatingReplicas") for one in old):
                self._scale(found, new, wanted)
        elif len(active) <= 1 and (not active or active[0] is new):
            self._scale(found, new, wanted)
        elif not self._grow(found, new, old):
            self._shrink(found, new, old)
        return old

    def _grow(self, found: Object, new: Object, old: list[Object]) -> bool:
        wanted = found["spec"]["replicas"]
        if _wanted(new) > wanted:
            self._scale(found, new, wanted)
            return True
        there = sum(map(_wanted, [new, *old]))
        room = wanted + surge(found["spec"]) - there
        more = min(room, wanted - _wanted(new))
        if more > 0:
            self._scale(found, new, _wanted(new) + more)
            return True
        return False

    def _shrink(self, found: Object, new: Object, old: list[Object]) -> None:
        spec = found["spec"]
        least = spec["replicas"] - unavailable(spec)
        missing = _wanted(new) - new["status"].get("availableReplicas", 0)
        room = sum(map(_wanted, [new, *old])) - least - missing
        for one in old:  # those that do not answer go first
            fewer = min(max(room, 0), _wanted(one) - one["status"].get("availableReplicas", 0), _wanted(one))
            if fewer > 0:
                self._scale(found, one, _wanted(one) - fewer)
                room -= fewer
        spare = sum(one["status"].get("availableReplicas", 0) for one in [new, *old]) - least
        for one in old:
            fewer = min(max(spare, 0), _wanted(one))
            if fewer > 0:
                self._scale(found, one, _wanted(one) - fewer)
                spare -= fewer

    def _scale(self, found: Object, one: Object, replicas: int) -> None:
        before = one["spec"]["replicas"]
        one["spec"]["replicas"] = replicas
        one["metadata"]["annotations"] |= _notes(found["spec"], _age(one))
        one |= self._objects.put(kinds.REPLICA_SET, one)
        if before != replicas:
            self._tell_scale(found, one["metadata"]["name"], before, replicas)

    def _tell_scale(self, found: Object, name: str, before: int, after: int) -> None:
        way = "up" if after >= before else "down"
        words = f"Scaled {way} replica set {name} from {before} to {after}"
        tell(self._objects, found, "ScalingReplicaSet", words, component="deployment-controller")

    def _forget(self, found: Object, old: list[Object]) -> None:
        """Old sets beyond the history's limit."""
        empty = [one for one in old if not _wanted(one) and not one["status"].get("replicas")]
        for one in empty[: max(0, len(empty) - found["spec"]["revisionHistoryLimit"])]:
            self._objects.remove(kinds.REPLICA_SET, one["metadata"]["namespace"], one["metadata"]["name"])

    def _report(self, found: Object, sets: list[Object], new_name: str, now: float) -> float:
        spec, metadata = found["spec"], found["metadata"]
        new = next(one for one in sets if one["metadata"]["name"] == new_name)
        before = copied(found["status"])

        def total(name: str) -> int:
            return sum(one["status"].get(name, 0) for one in sets)

        available = total("availableReplicas")
        status: Object = {
            "observedGeneration": metadata["generation"], "replicas": total("replicas"),
            "updatedReplicas": new["status"].get("replicas", 0), "readyReplicas": total("readyReplicas"),
            "availableReplicas": available, "unavailableReplicas": max(0, sum(map(_wanted, sets)) - available),
        }  # fmt: skip
        status = {key: value for key, value in status.items() if value}
        status |= {"terminatingReplicas": total("terminatingReplicas"), "conditions": before.get("conditions", [])}
        enough = available >= spec["replicas"] - unavailable(spec)
        _set(
            status,
            _condition("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
            if enough
            else _condition(
                "Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."
            ),
        )
        due = self._progressing(found, status, before, new_name, now)
        _failures(status, sets)
        found["status"] = status
        self._objects.put(kinds.DEPLOYMENT, found)
        return due

    def _progressing(self, found: Object, status: Object, before: Object, new_name: str, now: float) -> float:
        """The deadline, while one runs."""
        spec, uid = found["spec"], found["metadata"]["uid"]
        current = _get(status, "Progressing")
        reason = current["reason"] if current else ""
        if reason == "NewReplicaSetAvailable" and status.get("replicas", 0) == status.get("updatedReplicas", 0):
            return NEVER
        wanted = spec["replicas"]
        counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
        words = f'ReplicaSet "{new_name}"'
        if counts == [wanted] * 3:
            made = _condition("Progressing", "True", "NewReplicaSetAvailable", f"{words} has successfully progressed.")
            _set(status, made)
            self._progress[uid] = now
            return NEVER
        names = ("updatedReplicas", "readyReplicas", "availableReplicas")
        if any(status.get(name, 0) > before.get(name, 0) for name in names):
            made = _condition("Progressing", "True", "ReplicaSetUpdated", f"{words} is progressing.")
            if current and current["status"] == "True":
                made["lastTransitionTime"] = current["lastTransitionTime"]
            status["conditions"] = [one for one in status["conditions"] if one["type"] != "Progressing"] + [made]
            self._progress[uid] = now
            return now + float(spec["progressDeadlineSeconds"])
        if current is None or reason in ("NewReplicaSetAvailable", "ProgressDeadlineExceeded"):
            return NEVER
        deadline = self._progress.get(uid, now) + float(spec["progressDeadlineSeconds"])
        if now < deadline:
            return deadline
        _set(
            status,
            _condition("Progressing", "False", "ProgressDeadlineExceeded", f"{words} has timed out progressing."),
        )
        return NEVER


def _wanted(replica_set: Object) -> int:
    replicas: int = replica_set["spec"]["replicas"]
    return replicas


def _template(replica_set: Object) -> Object:
    template = copied(replica_set["spec"]["template"])
    template["metadata"]["labels"].pop(_HASH, None)
    found: Object = template
    return found


def _notes(spec: Object, revision: int) -> Object:
    wanted = spec["replicas"]
    return {
        f"{_NOTE}desired-replicas": str(wanted), f"{_NOTE}max-replicas": str(wanted + surge(spec)),
        f"{_NOTE}revision": str(revision),
    }  # fmt: skip


def surge(spec: Object) -> int:
    rolling = spec["strategy"].get("rollingUpdate")
    return _share(rolling["maxSurge"], spec["replicas"], math.ceil) if rolling else 0


def unavailable(spec: Object) -> int:
    rolling = spec["strategy"].get("rollingUpdate")
    if not rolling or not spec["replicas"]:
        return 0
    found = _share(rolling["maxUnavailable"], spec["replicas"], math.floor)
    return found if found or surge(spec) else 1


def _share(said: Any, of: int, rounded: Any) -> int:
    if isinstance(said, str) and said.endswith("%"):
        return int(rounded(int(said[:-1]) * of / 100))
    return int(said)


def _condition(type_: str, status: str, reason: str, message: str) -> Object:
    now = stamp()
    return {
        "type": type_, "status": status, "lastUpdateTime": now, "lastTransitionTime": now, "reason": reason,
        "message": message,
    }  # fmt: skip


def _get(status: Object, type_: str) -> Object | None:
    found: list[Object] = status.get("conditions", [])
    return next((one for one in found if one["type"] == type_), None)


def _set(status: Object, made: Object) -> None:
    """As Kubernetes: the same status and reason is no change; any other goes to the end of the list."""
    current = _get(status, made["type"])
    if current and (current["status"], current["reason"]) == (made["status"], made["reason"]):
        return
    if current and current["status"] == made["status"]:
        made["lastTransitionTime"] = current["lastTransitionTime"]
    status["conditions"] = [one for one in status.get("conditions", []) if one["type"] != made["type"]] + [made]


def _failures(status: Object, sets: list[Object]) -> None:
    """What the sets could not make. Not recorded."""
    failures = [
        one
        for replica_set in sets
        for one in replica_set["status"].get("conditions", [])
        if one["type"] == "ReplicaFailure" and one["status"] == "True"
    ]
    if failures:
        _set(status, _condition("ReplicaFailure", "True", failures[0]["reason"], failures[0]["message"]))
    else:
        status["conditions"] = [one for one in status["conditions"] if one["type"] != "ReplicaFailure"]
