"""Steps of a run's life, as they are written over what others have written meanwhile."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest

from modelserve.deploy.change import NOTHING_SERVES, Change
from modelserve.deploy.record import Record, transition
from modelserve.deploy.states import NEXT, State

STATES: tuple[State, ...] = get_args(State)


def run(state: State, **status: object) -> Record:
    record = Record(project="p", type="run", kind="k", name="i", id="i", status=status)
    return transition(record, state)


def path(record: Record) -> list[str]:
    return [step["status"] for step in reversed(record.status["transitions"])]


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("after", STATES)
def test_no_step_that_the_table_does_not_have(before: State, after: State) -> None:
    went = path(Change(after, "why").of(run(before)))
    assert went[0] == before
    assert all(second in NEXT[first] or first == second for first, second in pairwise(went))  # type: ignore[index]
    assert went[-1] in (before, after)


@pytest.mark.parametrize(
    ("before", "after", "through"),
    [
        ("READY", "RUNNING", ["READY", "PENDING", "RUNNING"]),
        ("RESUME", "RUNNING", ["RESUME", "PENDING", "RUNNING"]),
        ("RUNNING", "STOPPED", ["RUNNING", "STOP", "STOPPED"]),
        ("PENDING", "ERROR", ["PENDING", "ERROR"]),
        ("STOP", "RUNNING", ["STOP"]),
        ("STOP", "PENDING", ["STOP"]),
        ("DELETING", "ERROR", ["DELETING"]),
        ("STOPPED", "RUNNING", ["STOPPED"]),
    ],
)
def test_the_way(before: State, after: State, through: list[str]) -> None:
    assert path(Change(after).of(run(before))) == through


def test_facts_come_and_go() -> None:
    record = Change("RUNNING", "", {"pid": 7, "service": {"url": "127.0.0.1:1"}}).of(run("PENDING", host="h"))
    assert (record.status["pid"], record.status["host"]) == (7, "h")
    stopped = Change("STOPPED", "", NOTHING_SERVES).of(record)
    assert stopped.status.keys() == {"host", "state", "message", "transitions"}


def test_nothing_changes_where_a_step_is_not_taken() -> None:
    record = run("STOP")
    assert Change("RUNNING", "", {"pid": 7}).of(record) is record


def test_a_new_message_is_a_step() -> None:
    record = Change("PENDING", "starting it again").of(run("PENDING"))
    assert record.status["message"] == "starting it again"
    assert path(record) == ["PENDING", "PENDING"]
