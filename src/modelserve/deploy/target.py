"""What a target is: where runs are served. This machine (local.py), a cluster (kubernetes/); a row each in
registry.TARGETS.

A target moves a run from READY or RESUME on: what works for the run, or whoever looks at it, writes PENDING, RUNNING,
ERROR and STOPPED into the store. Knows no parameter table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, runtime_checkable

from modelserve.deploy.record import Record
from modelserve.errors import DeployError


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


class Reach(NamedTuple):
    """The way to a service from this process: a URL; what is to be called when it is not needed any more; and why
    nobody came through last, None where the way itself knows nothing of it."""

    url: str
    close: Callable[[], None] = lambda: None
    why: Callable[[], DeployError | None] = lambda: None


class LogsAsked(NamedTuple):
    """tail: most lines, of each pod; since_s: of the last seconds; container: of a pod, "" the server's; previous: of
    the container that ran before the one that runs."""

    tail: int | None = None
    since_s: float | None = None
    container: str = ""
    previous: bool = False


class Changes(Protocol):
    """Tells when a run may have changed."""

    def wait(self, pause_s: float, most_s: float) -> None:
        """Until then: `pause_s` at least, `most_s` at most."""


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

    def logs(self, record: Record, asked: LogsAsked, *, follow: bool = False) -> Iterator[str]:
        """Lines without their line ends, oldest first; follow: goes on until the run has ended. Raises TargetError."""

    def changes(self, record: Record) -> AbstractContextManager[Changes]: ...

    def reach(self, record: Record) -> Reach:
        """Of a run that has a service. Raises TargetError."""


@runtime_checkable
class ClusterTarget(Target, Protocol):
    """One that keeps runs as objects of its own, which can be changed while they serve."""

    def manifests(self, record: Record) -> list[dict[str, Any]]:
        """What was applied."""

    def check(self, record: Record, *, force: bool = False) -> list[dict[str, Any]]:
        """A dry run: what would be there. Raises TargetError."""

    def update(self, record: Record, spec: dict[str, Any], *, force: bool = False) -> None:
        """force: also what others have set since."""

    def adopt(self, place: Mapping[str, str]) -> None:
        """Put the runs of this kubeconfig, context and namespace into the store that it does not know."""

    def scale(self, record: Record, replicas: int, *, force: bool = False) -> None: ...
