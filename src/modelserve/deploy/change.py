"""A step of a run's life, as this machine reports it: the state, what happened, and facts of the status.

Pure. Writers meet in the store; a step that is not legal any more when it is written leaves the run as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from modelserve.deploy.record import Record, transition
from modelserve.deploy.states import NEXT, State

_VIA: Mapping[State, State] = {"RUNNING": "PENDING", "STOPPED": "STOP"}
"""Nobody is asked for these on the way: a run that is ready at once was pending, one that a signal ends was stopped."""

NOTHING_SERVES: Mapping[str, None] = {"service": None, "pid": None, "supervisor": None}
"""Facts of a status that end with the run: another process may have its ports and pids next."""


class Change(NamedTuple):
    state: State
    message: str = ""
    facts: Mapping[str, Any] = {}
    """Of the status; None removes one."""

    def of(self, record: Record) -> Record:
        """The record afterwards; itself where nothing changes."""
        for step in _way(cast(State, record.state), self.state):
            record = transition(record, step, self.message if step == self.state else "")
        if record.state != self.state:
            return record
        status = {name: value for name, value in {**record.status, **self.facts}.items() if value is not None}
        return record if status == record.status else record.replace(status=status)


def _way(before: State, after: State) -> tuple[State, ...]:
    """The states to go through; none when there is no legal way."""
    if before == after or after in NEXT[before]:
        return (after,)
    via = _VIA.get(after)
    return (via, after) if via in NEXT[before] and via is not None and after in NEXT[via] else ()
