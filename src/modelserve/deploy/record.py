"""An entity as it is stored, exported and imported: project, function, task and run differ only in their data.

Knows no store and no target.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec

from modelserve.deploy.reference import Key, Type


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One entity. name equals id for tasks and runs. metadata: created, updated (ISO 8601), description, labels,
    version. spec: what was asked for. status: what became of it (state, message, transitions, service, …).

    revision counts the writes; the store refuses one that was made from an older revision.
    """

    project: str
    type: Type
    kind: str
    name: str
    id: str
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    spec: dict[str, Any] = msgspec.field(default_factory=dict)
    status: dict[str, Any] = msgspec.field(default_factory=dict)
    revision: int = 0

    @property
    def key(self) -> str:
        versioned = self.type == "function"
        return str(Key(self.project, self.type, self.kind, self.name if versioned else "", self.id))

    @property
    def state(self) -> str:
        return str(self.status.get("state", ""))

    def replace(self, **changes: Any) -> Record:
        return msgspec.structs.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """As it is exported: DigitalHub's order of keys."""
        return {
            "project": self.project,
            "name": self.name,
            "id": self.id,
            "kind": self.kind,
            "key": self.key,
            "metadata": self.metadata,
            "spec": self.spec,
            "status": self.status,
        }


def new_id() -> str:
    return uuid.uuid4().hex


def lasting_id(project: str, name: str) -> str:
    """The id of what is not stored, but must be the same each time that it is named: it looks like any other."""
    return sha256(f"{project}/{name}".encode()).hexdigest()[:32]


def now() -> str:
    """ISO 8601, UTC, microseconds: as text it sorts by time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def transition(record: Record, state: str, message: str = "") -> Record:
    """The record in another state, with the transition noted, newest first. Whether it is legal is for states.check."""
    status = dict(record.status)
    step = {"status": state, "time": now()} | ({"message": message} if message else {})
    before = status.get("transitions", [])
    if not before or (before[0]["status"], before[0].get("message", "")) != (state, message):
        status["transitions"] = [step, *before][:100]
    status["state"] = state
    status["message"] = message
    return record.replace(status=status)
