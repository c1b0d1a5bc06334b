"""What the store is told when a run was looked at in its cluster: a verdict becomes a step of the run's life. Pure.

Whoever looks writes; so a look that is older than another's start, update or stop changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from modelserve.deploy.change import NOTHING_SERVES, Change
from modelserve.deploy.kubernetes.diagnosis import Verdict
from modelserve.deploy.record import Record, now
from modelserve.errors import ConfigError

_PATIENCE_S = 30.0
"""For what may mend itself: a disk that is being made, a node that is being added. Measured by this machine's clock,
from when somebody first saw it."""
LOOKED_AT = ("READY", "RESUME", "PENDING", "RUNNING", "ERROR")
"""A cluster goes on trying after an error; so whoever looks goes on looking."""


def is_hopeless(record: Record, verdict: Verdict) -> bool:
    """Whether what needed patience has had it."""
    held = record.status.get("held") or {}
    if not verdict.patience or held.get("why") != verdict.message:
        return False
    return (datetime.now(UTC) - datetime.fromisoformat(held["since"])).total_seconds() >= _PATIENCE_S


def after(record: Record, seen: Record, verdict: Verdict, facts: Mapping[str, Any]) -> Record:
    """The record in the store after a look. seen: the record that the look was for."""
    if record.state not in LOOKED_AT or record.status.get("begun") != seen.status.get("begun"):
        return record
    if record.state == "ERROR":
        if verdict.state != "RUNNING":
            return record  # between two crashes a container runs, too
        record = Change("RESUME", "the cluster went on trying").of(record)
    facts = {"held": _held(record, verdict)} | dict(facts)
    if verdict.state == "STOPPED":
        facts |= NOTHING_SERVES
    return Change(verdict.state, verdict.message, facts).of(record)


def _held(record: Record, verdict: Verdict) -> dict[str, str] | None:
    """Since when the run has been waiting for what may mend itself; None where it is not."""
    if not verdict.patience:
        return None
    held: dict[str, str] = record.status.get("held") or {}
    return held if held.get("why") == verdict.message else {"why": verdict.message, "since": now()}


def changeable(spec: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    """Raises ConfigError for what a run is found by, or made of."""
    for name in ("kubeconfig", "context", "namespace", "flavor"):
        if changed.get(name) != spec.get(name):
            raise ConfigError(f"{name} is {spec.get(name)!r}; it cannot change while the run is there; start another")
