"""Where a log is taken up again: whatever an API may give a second time, each line is taken once."""

from __future__ import annotations

import random

import pytest

from modelserve.deploy.kubernetes.log_position import Position


def _take(position: Position, *lines: str) -> list[str]:
    found = [position.take(line.encode()) for line in lines]
    return [line for line in found if line is not None]


def test_the_time_is_taken_off() -> None:
    position = Position()
    assert position.since == ""
    assert _take(
        position, "2026-11-22T20:00:15.326339786Z two  words", "2026-11-22T20:00:15Z ", "2026-11-22T20:00:16Z"
    ) == [
        "two  words",
        "",
        "",
    ]
    assert position.since == "2026-11-22T20:00:15Z"


def test_any_zone() -> None:
    position = Position()
    assert _take(position, "2026-11-22T21:30:15.5+01:30 one") == ["one"]
    assert position.since == "2026-11-22T20:00:14Z"


def test_equal_lines_of_one_moment_are_as_many_as_they_were() -> None:
    position = Position()
    same = "2026-11-22T20:00:15.000000001Z tick"
    assert _take(position, same, same) == ["tick", "tick"]
    position.resume()
    assert _take(position, same, same, same, "2026-11-22T20:00:15.000000002Z tick") == ["tick", "tick"]
    position.resume()
    assert _take(position, same, same, same, "2026-11-22T20:00:15.000000002Z tick") == []


def test_a_moment_out_of_order_is_not_lost() -> None:
    position = Position()
    assert _take(position, "2026-11-22T20:00:15.9Z a", "2026-11-22T20:00:16.1Z b") == ["a", "b"]
    assert position.since == "2026-11-22T20:00:15Z"
    position.resume()
    again = ("2026-11-22T20:00:15.9Z a", "2026-11-22T20:00:16.1Z b", "2026-11-22T20:00:15.99Z late")
    assert _take(position, *again) == ["late"]


def test_what_was_before_the_first_line_was_not_asked_for() -> None:
    position = Position()
    assert _take(position, "2026-11-22T20:00:15.5Z the tail") == ["the tail"]
    position.resume()
    again = ("2026-11-22T20:00:15.4Z old", "2026-11-22T20:00:15.5Z the tail", "2026-11-22T20:00:15.6Z new")
    assert _take(position, *again) == ["new"]


def test_what_the_kubelet_says_itself_is_said_once() -> None:
    position = Position()
    gone = "unable to retrieve container logs for containerd://1"
    assert _take(position, gone) == [gone]
    position.resume()
    assert _take(position, gone) == []
    assert position.since == ""


@pytest.mark.parametrize("seed", range(20))
def test_any_log_cut_anywhere(seed: int) -> None:
    """As the API does it: from a whole second on, in the order in which it was written."""
    chance = random.Random(seed)
    log, second, nano = [], 0, 0
    for number in range(400):
        nano += chance.choice((0, 0, 1000, 10**7, 10**8, 10**9))
        second, nano = second + nano // 10**9, nano % 10**9
        log.append(
            (second, f"2026-11-22T20:{second // 60:02}:{second % 60:02}.{nano:09}Z {chance.choice('ab')}{number % 3}")
        )
    position, found, at = Position(), [], 0
    while at < len(log):
        begin = position.since
        start = next(index for index, (_, line) in enumerate(log) if line[:19] >= begin[:19])
        at = min(len(log), max(at, start) + chance.randint(0, 60))
        position.resume()
        found += _take(position, *(line for _, line in log[start:at]))
    assert found == [line.partition(" ")[2] for _, line in log]
