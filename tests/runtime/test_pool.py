from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from modelserve.runtime.pool import Pool


async def test_calls_run_on_named_threads_and_survive_an_error(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool("worker", 1)
    seen: list[str] = []
    done = threading.Event()

    def fail() -> None:
        raise ValueError("broken")

    with caplog.at_level(logging.ERROR):
        pool.submit(fail)
        pool.submit(lambda: seen.append(threading.current_thread().name))
        pool.submit(done.set)
        assert await asyncio.to_thread(done.wait, 10)
    assert seen == ["worker-0"]
    assert "a call on worker-0 failed" in caplog.text
    pool.close()
    pool._threads[0].join(10)
    assert not pool._threads[0].is_alive()


async def test_calls_of_several_turns_run_side_by_side() -> None:
    pool = Pool("worker", 2)
    together, done = threading.Barrier(2), threading.Event()

    def meet() -> None:
        together.wait(10)

    for _ in range(2):
        pool.submit(meet)  # neither ends before the other has begun
        await asyncio.sleep(0)
    pool.submit(done.set)
    assert await asyncio.to_thread(done.wait, 10)
    pool.close()


async def test_what_is_queued_is_worked_off_before_the_threads_end() -> None:
    pool = Pool("worker", 2)
    seen: list[int] = []
    for number in range(100):
        pool.submit(seen.append, number)
    pool.close()
    for thread in pool._threads:
        await asyncio.to_thread(thread.join, 10)
    assert sorted(seen) == list(range(100))
