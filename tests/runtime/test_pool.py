from __future__ import annotations

import logging
import threading

import pytest

from modelserve.runtime.pool import Pool


def test_calls_run_on_named_threads_and_survive_an_error(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool("worker", 1)
    seen: list[str] = []
    done = threading.Event()

    def fail() -> None:
        raise ValueError("broken")

    with caplog.at_level(logging.ERROR):
        pool.submit(fail)
        pool.submit(lambda: seen.append(threading.current_thread().name))
        pool.submit(done.set)
        assert done.wait(10)
    assert seen == ["worker-0"]
    assert "a call on worker-0 failed" in caplog.text
    pool.close()
    pool._threads[0].join(10)
    assert not pool._threads[0].is_alive()
