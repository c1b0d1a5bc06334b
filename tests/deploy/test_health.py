"""What a server's answers mean, without a clock and without a server."""

from __future__ import annotations

from modelserve.deploy.health import Health
from modelserve.deploy.probe import Answer

READY = Answer(answered=True, ready=True)
LOADING = Answer(answered=True, ready=False, stage="load")
STUCK = Answer(answered=True, ready=False, live=False)
NOTHING = Answer()


def test_one_late_answer_is_no_event() -> None:
    health = Health(0)
    assert health.see(READY, 1) == ""
    for second, answer in enumerate((NOTHING, LOADING, READY, NOTHING, NOTHING), start=2):
        health.see(answer, second)
        assert health.ready
    health.see(NOTHING, 7)
    assert not health.ready
    assert health.was_ready


def test_health_is_counted_without_a_break() -> None:
    health = Health(0)
    health.see(LOADING, 5)
    assert health.healthy_s(5) == 0
    health.see(READY, 10)
    health.see(READY, 70)
    assert health.healthy_s(75) == 65
    for second in (76, 77, 78):
        health.see(NOTHING, second)
    assert health.healthy_s(78) == 0
    health.see(READY, 80)
    assert health.healthy_s(81) == 1


def test_not_live_three_times_is_killed() -> None:
    health = Health(0)
    health.see(READY, 1)
    assert [health.see(answer, 2) for answer in (STUCK, STUCK, READY, STUCK, STUCK)] == [""] * 5
    assert "hangs" in health.see(STUCK, 3)


def test_silence_is_killed_after_a_minute_but_not_at_the_start() -> None:
    health = Health(0)
    assert health.see(NOTHING, 299) == ""
    assert health.see(NOTHING, 301) == "it has not answered for 300 s"
    health = Health(0)
    health.see(LOADING, 100)
    assert health.see(NOTHING, 159) == ""
    assert health.see(NOTHING, 161) == "it has not answered for 60 s"
