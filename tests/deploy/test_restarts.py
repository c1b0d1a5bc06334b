"""The pauses before a restart, and when there are no more."""

from __future__ import annotations

from modelserve.deploy.restarts import LIMIT, SETTLED_S, Restarts


def test_a_crash_loop_ends() -> None:
    restarts = Restarts()
    assert [restarts.pause_s(0) for _ in range(LIMIT + 2)] == [0.5, 1, 2, 4, 8, None, None]


def test_health_in_between_forgives() -> None:
    restarts = Restarts()
    for _ in range(LIMIT):
        restarts.pause_s(SETTLED_S - 1)
    assert restarts.pause_s(SETTLED_S) == 0.5
    assert restarts.count == 1
    assert [restarts.pause_s(0) for _ in range(LIMIT)] == [1, 2, 4, 8, None]
