"""Rates between two looks, over real processes."""

from __future__ import annotations

import subprocess
import sys
import time

from modelserve.deploy.meter import Meter

BUSY = "while True: pass"


def test_children_count_and_counters_may_begin_again() -> None:
    meter = Meter()
    first = meter.look(None)
    assert (first.cpu, first.requests_per_s) == (None, None)
    assert first.memory_bytes is not None
    with subprocess.Popen([sys.executable, "-c", BUSY]) as child:
        try:
            begun = time.monotonic()
            meter.look(100.0)
            time.sleep(0.5)
            usage = meter.look(110.0)
            passed_s = time.monotonic() - begun
            again = meter.look(5.0)
        finally:
            child.kill()
    assert usage.cpu is not None
    assert usage.cpu > 0.1
    assert usage.memory_bytes is not None
    assert usage.memory_bytes > first.memory_bytes
    assert usage.requests_per_s is not None
    assert 10 / passed_s <= usage.requests_per_s <= 10 / 0.5
    assert again.requests_per_s is not None
    assert again.requests_per_s > 0
