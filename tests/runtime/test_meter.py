"""The numbers of one text, whoever ends it and when."""

from __future__ import annotations

import pytest

from modelserve.runtime import metrics
from modelserve.runtime.meter import Meter


def counted(name: str) -> tuple[float, float]:
    return metrics.waiting.labels(name)._value.get(), metrics.running.labels(name)._value.get()


def test_waiting_then_running_then_neither() -> None:
    meter = Meter("one")
    assert counted("one") == (1, 0)
    meter.token()
    meter.token()
    assert counted("one") == (0, 1)
    meter.end()
    meter.end()
    assert counted("one") == (0, 0)


def test_one_that_nobody_began() -> None:
    meter = Meter("none")
    meter.end()
    meter.token()
    assert counted("none") == (0, 0)


def test_its_reader_leaves_while_the_first_token_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter("left")
    move = meter._move

    def move_and_leave(self: Meter) -> None:
        move()
        self.end()

    monkeypatch.setattr(Meter, "_move", move_and_leave)
    meter.token()
    assert counted("left") == (0, 0)
