"""What becomes of a pod, as a test wishes it. Pure data.

A fate is looked up again at every step, so a test heals a pod by giving it another one. What is missing in the
namespace (secrets, claims) is no fate: the kubelet looks. All times are the cluster's seconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fate:
    """The default: it starts, and answers its probes soon."""

    logs: tuple[str, ...] = ()
    """What each run of the container writes when it starts."""
    container: str = ""
    """The one container it is about, init containers too; "" for all but init containers. The others do well."""
    ready_after: float = 0.3
    """From the start until the probes answer; a container without probes is ready when it runs."""
    answers: bool = True
    """Whether the probes ever answer."""
    exit_code: int | None = None
    """It ends with this, `after` its start."""
    after: float = 0.5
    reason: str = "Error"
    message: str = ""
    """What it writes to its termination log."""
    crashes: int = 1_000_000
    """After so many ends it lives on."""
    image: str = ""
    """Why the image cannot be pulled, in the runtime's words."""
    unscheduled: str = ""
    """Why no node is found, in the scheduler's words."""
    evicted: str = ""
    """Why the node throws it out, `after` its start."""


READY = Fate()


def ready(*logs: str, after: float = 0.3) -> Fate:
    return Fate(logs=logs, ready_after=after)


def unready(*logs: str) -> Fate:
    """Runs, and never answers its probes: a startup probe that has failed often enough ends it."""
    return Fate(logs=logs, answers=False)


def crash(
    *logs: str, code: int = 1, after: float = 0.5, answers: bool = False, crashes: int = 1_000_000, container: str = ""
) -> Fate:
    """answers: whether it is ready before, where it has probes."""
    return Fate(logs=logs, exit_code=code, after=after, answers=answers, crashes=crashes, container=container)


def oom(*logs: str, after: float = 0.5, answers: bool = False) -> Fate:
    return Fate(logs=logs, exit_code=137, reason="OOMKilled", after=after, answers=answers)


def no_image(
    words: str = "failed to pull and unpack image: failed to resolve reference: not found", container: str = ""
) -> Fate:
    return Fate(image=words, container=container)


def unschedulable(words: str = "0/2 nodes are available: 2 Insufficient cpu.") -> Fate:
    return Fate(unscheduled=words)


def evicted(words: str = "The node was low on resource: memory.", after: float = 1.0) -> Fate:
    return Fate(evicted=words, after=after)
