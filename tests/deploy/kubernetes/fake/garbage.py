"""What goes when something else has gone: dependents of owners, contents of namespaces, claims that no pod uses.

Whoever calls holds the store's lock.
"""

from __future__ import annotations

from tests.deploy.kubernetes.fake import kinds, needs
from tests.deploy.kubernetes.fake.kinds import Kind, Object
from tests.deploy.kubernetes.fake.objects import Objects, copied
from tests.deploy.kubernetes.fake.writes import removed

NEVER = float("inf")
_NAMESPACE_S = 0.5
_FOREGROUND, _ORPHAN, _USED = "foregroundDeletion", "orphan", "kubernetes.io/pvc-protection"


class Garbage:
    """The collector, which remembers since when a namespace ends."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._ending: dict[str, float] = {}

    def sync(self, now: float) -> float:
        self._owners()
        self._claims()
        due = NEVER
        for found in self._objects.all(kinds.NAMESPACE):
            if "deletionTimestamp" in found["metadata"]:
                due = min(due, self._namespace(found["metadata"]["name"], now))
        return due

    def _all(self) -> list[tuple[Kind, Object]]:
        return [(kind, one) for kind in kinds.KINDS for one in self._objects.look(kind)]

    def _owners(self) -> None:
        everything = self._all()
        alive = {one["metadata"]["uid"] for _, one in everything}
        foreground = {one["metadata"]["uid"] for _, one in everything if _waits(one, _FOREGROUND)}
        waited: set[str] = set()
        for kind, one in everything:
            references = one["metadata"].get("ownerReferences", [])
            owners = {reference["uid"] for reference in references}
            if not owners:
                continue
            if not owners & alive:
                if "deletionTimestamp" not in one["metadata"] or kind is not kinds.POD:
                    self._remove(kind, one, "Background")
            elif owners & foreground:
                waited |= owners
                if "deletionTimestamp" not in one["metadata"]:
                    self._remove(kind, one, "Foreground")
        for kind, one in everything:
            uid = one["metadata"]["uid"]
            if _waits(one, _FOREGROUND) and uid not in waited:
                self._release(kind, one, _FOREGROUND)
            elif _waits(one, _ORPHAN):
                self._orphan(uid)
                self._release(kind, one, _ORPHAN)

    def _remove(self, kind: Kind, one: Object, policy: str) -> None:
        found = self._objects.get(kind, one["metadata"].get("namespace", ""), one["metadata"]["name"])
        if found is not None and not (policy == "Background" and found["metadata"].get("finalizers") and
                                      "deletionTimestamp" in found["metadata"]):  # fmt: skip
            removed(self._objects, kind, found, policy)

    def _release(self, kind: Kind, one: Object, finalizer: str) -> None:
        """Without the finalizer; without any, it goes."""
        metadata = one["metadata"]
        left = [name for name in metadata.get("finalizers", []) if name != finalizer]
        if not left:
            self._objects.remove(kind, metadata.get("namespace", ""), metadata["name"])
            return
        found = copied(one)
        found["metadata"]["finalizers"] = left
        self._objects.put(kind, found)

    def _orphan(self, uid: str) -> None:
        for kind, one in self._all():
            references = one["metadata"].get("ownerReferences", [])
            if any(reference["uid"] == uid for reference in references):
                found = copied(one)
                found["metadata"]["ownerReferences"] = [ref for ref in references if ref["uid"] != uid]
                self._objects.put(kind, found)

    def _claims(self) -> None:
        pods = self._objects.look(kinds.POD)
        for one in self._objects.look(kinds.CLAIM):
            metadata = one["metadata"]
            if _waits(one, _USED) and not any(
                metadata["name"] in needs.claims(pod) and pod["metadata"]["namespace"] == metadata["namespace"]
                for pod in pods
            ):
                self._release(kinds.CLAIM, one, _USED)

    def _namespace(self, name: str, now: float) -> float:
        due = self._ending.setdefault(name, now + _NAMESPACE_S)
        if now < due:
            return due
        left = [(kind, one) for kind, one in self._all() if one["metadata"].get("namespace") == name]
        for kind, one in left:
            if "deletionTimestamp" not in one["metadata"]:
                self._remove(kind, one, "Background")
        if not left:
            self._objects.remove(kinds.NAMESPACE, "", name)
            del self._ending[name]
        return NEVER


def _waits(one: Object, finalizer: str) -> bool:
    metadata = one["metadata"]
    return "deletionTimestamp" in metadata and finalizer in metadata.get("finalizers", [])
