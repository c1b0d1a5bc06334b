"""The states of a run and which may follow which. Pure data; the docs' table is written from it."""

from __future__ import annotations

from typing import Literal, get_args

from modelserve.errors import IllegalTransition

State = Literal[
    "CREATED", "BUILT", "READY", "PENDING", "RUNNING", "STOP", "STOPPED", "RESUME", "ERROR", "DELETING", "DELETED"
]

MEANING: dict[State, str] = {
    "CREATED": "stored, not looked at yet",
    "BUILT": "function, task and run are merged; the spec is sealed from here on",
    "READY": "handed to its target",
    "PENDING": "starting, loading, or starting again after a crash: the model does not answer; or, in a cluster, being "
    "changed: the former pods answer meanwhile",
    "RUNNING": "the model answers",
    "STOP": "asked to stop; requests in flight end",
    "STOPPED": "stopped; resume starts it again",
    "RESUME": "asked to start again",
    "ERROR": "failed, and status.message says why; resume tries again, and a cluster goes on trying",
    "DELETING": "being removed",
    "DELETED": "gone",
}

_ANY_TIME: tuple[State, ...] = ("STOP", "ERROR", "DELETING")

NEXT: dict[State, tuple[State, ...]] = {
    "CREATED": ("BUILT", *_ANY_TIME),
    "BUILT": ("READY", *_ANY_TIME),
    "READY": ("PENDING", *_ANY_TIME),
    "PENDING": ("RUNNING", *_ANY_TIME),
    "RUNNING": ("PENDING", *_ANY_TIME),
    "STOP": ("STOPPED", "ERROR", "DELETING"),
    "STOPPED": ("RESUME", "DELETING"),
    "RESUME": ("PENDING", *_ANY_TIME),
    "ERROR": ("RESUME", "STOP", "DELETING"),
    "DELETING": ("DELETED",),
    "DELETED": (),
}
"""What may follow. A state may also follow itself, which changes nothing but the message."""

ALIVE: frozenset[State] = frozenset({"READY", "PENDING", "RUNNING", "RESUME", "STOP"})
"""Something on the target works for the run."""
ENDED: frozenset[State] = frozenset({"STOPPED", "ERROR", "DELETED"})


def check(before: State, after: State) -> None:
    """Raises IllegalTransition."""
    if before != after and after not in NEXT[before]:
        allowed = ", ".join(NEXT[before]) or "nothing"
        raise IllegalTransition(f"the run is {before} and cannot become {after}; what may follow is {allowed}")


assert set(get_args(State)) == set(MEANING) == set(NEXT)
