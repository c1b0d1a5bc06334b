"""What is in the fake cluster: objects by kind, namespace and name, their versions, and the history that watches read.

Knows no HTTP and no controller. Whoever calls holds `lock`; `changed` is told of every change. Objects that come out
are copies.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from tests.deploy.kubernetes.fake.kinds import KINDS, Kind, Object


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the history. before: the object as it was, None when it was added."""

    version: int
    type: str
    kind: Kind
    object: Object
    before: Object | None


T = TypeVar("T")


def copied(value: T) -> T:
    """A deep copy of JSON, several times faster than copy.deepcopy."""
    return cast("T", _copied(value))


def _copied(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copied(one) for key, one in value.items()}
    if type(value) is list:
        return [_copied(one) for one in value]
    return value


def stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def fine_stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Objects:
    """The store. `version` is the cluster's resourceVersion."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = 1000
        self.oldest = 1000
        """Watches from before this version are answered with 410."""
        self.history: list[Change] = []
        self._items: dict[Kind, dict[tuple[str, str], Object]] = {kind: {} for kind in KINDS}

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        found = self._items[kind].get((namespace, name))
        return None if found is None else copied(found)

    def has(self, kind: Kind, namespace: str, name: str) -> bool:
        return (namespace, name) in self._items[kind]

    def all(self, kind: Kind, namespace: str = "", where: Callable[[Object], bool] | None = None) -> list[Object]:
        """By namespace and name, as the API lists them. namespace "" for all."""
        return [
            copied(one)
            for (space, _), one in sorted(self._items[kind].items())
            if (not namespace or space == namespace) and (where is None or where(one))
        ]

    def look(self, kind: Kind) -> list[Object]:
        """The stored objects themselves, only to be looked at."""
        return list(self._items[kind].values())

    def add(self, kind: Kind, found: Object) -> Object:
        """Gives it what the server gives: uid, creation time, generation, version."""
        metadata = found["metadata"]
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = stamp()
        if has_generation(kind):
            metadata["generation"] = 1
        return self._store(kind, found, "ADDED", None)

    def put(self, kind: Kind, found: Object) -> Object:
        """In place of the one that is there. The same object again is no change. The generation counts the spec's."""
        key = (found["metadata"].get("namespace", ""), found["metadata"]["name"])
        before = self._items[kind][key]
        found = copied(found)
        found["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
        if found == before:
            return found
        # What the cluster counts: the spec's changes, and the wish to be deleted.
        told = ("deletionTimestamp" in found["metadata"]) != ("deletionTimestamp" in before["metadata"])
        if has_generation(kind) and (_counted(found) != _counted(before) or told):
            found["metadata"]["generation"] = before["metadata"]["generation"] + 1
        return self._store(kind, found, "MODIFIED", before)

    def remove(self, kind: Kind, namespace: str, name: str) -> Object | None:
        before = self._items[kind].pop((namespace, name), None)
        if before is None:
            return None
        self.version += 1
        last = copied(before)
        last["metadata"]["resourceVersion"] = str(self.version)
        self._remember(Change(self.version, "DELETED", kind, last, before))
        return copied(last)

    def _store(self, kind: Kind, found: Object, type_: str, before: Object | None) -> Object:
        self.version += 1
        kept = copied(found)
        kept["metadata"]["resourceVersion"] = str(self.version)
        self._items[kind][kept["metadata"].get("namespace", ""), kept["metadata"]["name"]] = kept
        self._remember(Change(self.version, type_, kind, kept, before))
        return copied(kept)

    def _remember(self, change: Change) -> None:
        self.history.append(change)
        self.changed.notify_all()

    def forget(self) -> None:
        """The history so far is lost: older versions are too old from now on."""
        self.version += 1
        self.oldest = self.version
        self.history.clear()
        self.changed.notify_all()


def _counted(found: Object) -> Object:
    """The spec, but for the node: being bound is no change of a pod's generation."""
    return {key: value for key, value in found.get("spec", {}).items() if key != "nodeName"}


def has_generation(kind: Kind) -> bool:
    """Kinds whose spec is counted; those without a spec are not, and namespaces, services and claims neither."""
    return kind.group in ("apps", "policy", "serving.kserve.io") or kind.name == "Pod"
