"""Dozens of callers of a model that writes, who also leave and ask for nonsense; nothing is left of any of them."""

from __future__ import annotations

import pytest

from tests.fuzz.crowd import CALLERS, ROOM, soak

SECONDS = 20.0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_crowd_leaves_nothing_behind() -> None:
    report = soak(SECONDS)
    if report.leak <= ROOM:  # on a machine that is busy with other things
        report = soak(4 * SECONDS)
    assert set(report.kinds) == {"whole", "stream", "slow", "left", "left whole", "half", "bad"}
    assert report.kinds.total() > 10 * CALLERS
    assert report.grown < ROOM
    assert report.leak > ROOM, "too little was written for a leak to be seen"
    assert report.drained_s < 30
