"""What the store is told when a run was looked at in its cluster: a verdict becomes a step of the run's life. Pure.

Whoever looks writes; a look that began before somebody else wrote changes nothing, and the next one tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from modelserve.deploy.change import Change
from modelserve.deploy.kubernetes.diagnosis import Verdict
from modelserve.deploy.record import Record, now

_PATIENCE_S = 60.0
"""For what may mend itself: a disk that is being made, a node that is being added. Measured by this machine's clock,
from when somebody first saw it."""
_APPLY_S = 120.0
"""A dozen requests, each of them asked again while the server is busy."""
LOOKED_AT = ("READY", "RESUME", "PENDING", "RUNNING", "ERROR")
"""A cluster goes on trying after an error; so whoever looks goes on looking."""


def is_hopeless(record: Record, verdict: Verdict) -> bool:
    """Whether what needed patience has had it."""
    held = record.status.get("held") or {}
    if not verdict.patience or held.get("why") != _kind(verdict):
        return False
    return (datetime.now(UTC) - datetime.fromisoformat(held["since"])).total_seconds() >= _PATIENCE_S


def after(record: Record, seen: Record, verdict: Verdict, facts: Mapping[str, Any]) -> Record:
    """The record in the store after a look. seen: the record that the look was for."""
    if record.revision != seen.revision or record.state not in LOOKED_AT:
        return record
    if record.state == "ERROR":
        if verdict.state != "RUNNING":
            return record  # between two crashes a container runs, too
        record = Change("RESUME", "the cluster went on trying").of(record)
    facts = {"held": _held(record, verdict)} | dict(facts)
    return Change(verdict.state, verdict.message, facts).of(record)


def _held(record: Record, verdict: Verdict) -> dict[str, str] | None:
    """Since when the run has been waiting for what may mend itself; None where it is not."""
    if not verdict.patience:
        return None
    held: dict[str, str] = record.status.get("held") or {}
    return held if held.get("why") == _kind(verdict) else {"why": _kind(verdict), "since": now()}


def _kind(verdict: Verdict) -> str:
    """Of what it waits for; the words change with every node that comes and goes."""
    return verdict.stage.partition(",")[0]


def applying(record: Record) -> Record:
    """The record of a run that somebody is applying; ERROR where that takes longer than it can."""
    since = datetime.fromisoformat(record.status.get("applying") or now())
    if record.state not in LOOKED_AT or record.state == "ERROR":
        return record
    if (datetime.now(UTC) - since).total_seconds() < _APPLY_S:
        return record
    message = "whoever was to apply it to the cluster is gone; resume it, or delete it"
    return Change("ERROR", message, {"applying": None}).of(record)
