"""What a target is: where runs are served. This machine (local.py), Kubernetes later; a row each in registry.TARGETS.

A target moves a run from READY or RESUME on: what works for the run writes PENDING, RUNNING, ERROR and STOPPED into the
store. Knows no parameter table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from modelserve.deploy.record import Record


class Usage(NamedTuple):
    """What a run uses and does, as last seen; None where nobody knows."""

    cpu: float | None = None
    """CPU seconds per second, over all its processes."""
    memory_bytes: int | None = None
    requests_per_s: float | None = None


class Progress(NamedTuple):
    """How far a load is."""

    stage: str = ""
    """queued, download, load, warm-up, ready."""
    fraction: float = 0.0


class Target(Protocol):
    name: str

    def start(self, record: Record) -> None:
        """Begin to serve a run that was READY or RESUME, and return at once; nothing is done for one that others have
        stopped or removed meanwhile. Raises TargetError."""

    def observe(self, record: Record) -> Record:
        """The run as it is now: the store's record, put right where nothing works for a run that says it is alive."""

    def progress(self, record: Record) -> Progress: ...

    def usage(self, record: Record) -> Usage: ...

    def stop(self, record: Record, timeout_s: float | None = None) -> None:
        """End what serves the run, whose state is STOP, and wait for it; STOPPED afterwards, also when nothing did."""

    def delete(self, record: Record) -> None:
        """End what still serves the run, whose state is DELETING, and remove everything that the target keeps of it."""

    def logs(self, record: Record, *, tail: int | None = None, follow: bool = False) -> Iterator[str]:
        """Lines without their line ends, oldest first; follow: goes on until the run has ended."""
