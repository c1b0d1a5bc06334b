"""Every accepted request is answered, and nobody answers for another: with a backend of plain Python."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from modelserve.backends.base import DeviceLost, Limits, OutOfMemory, Reduce
from modelserve.errors import (
    InferenceFailed,
    ModelServeError,
    NotReady,
    Overloaded,
    PredictorDown,
    PredictorFailed,
    RequestTimeout,
)
from modelserve.runtime.batcher import Batcher, Reply
from modelserve.runtime.queue import pause_s
from modelserve.types import Encoding, Output


class Backend:
    """Answers each text with its length, unless `on` (called with the lengths) raises or waits."""

    def __init__(self, on: Callable[[list[int]], None] = lambda lengths: None, streams: int = 1) -> None:
        self.limits = Limits(layout="packed", max_batch_tokens=100, streams=streams)
        self.on = on
        self.batches: list[list[int]] = []
        self.alone: list[bool] = []

    def forward(self, encodings: Sequence[Encoding], reduce: Reduce, *, alone: bool = True) -> list[Output]:
        lengths = [len(encoding) for encoding in encodings]
        self.batches.append(lengths)
        self.alone.append(alone)
        self.on(lengths)
        return list(lengths)

    def close(self) -> None: ...

    def describe(self) -> dict[str, Any]:
        return {}


def reduce(states: Any, encodings: Sequence[Encoding]) -> list[Output]:
    raise AssertionError("the backend of these tests reduces nothing")


def texts(*lengths: int) -> list[Encoding]:
    return [Encoding(ids=[1] * length) for length in lengths]


class Gate:
    """Holds the backend until it is opened, and tells when a pass has begun."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, lengths: list[int]) -> None:
        self.entered.set()
        assert self.opened.wait(10), "nobody opened the gate"


@pytest.fixture
def start() -> Iterator[Callable[..., Batcher]]:
    started: list[Batcher] = []

    def make(backend: Backend, *, size: int = 100) -> Batcher:
        started.append(Batcher(backend, reduce, max_queue_size=size))
        return started[-1]

    yield make
    for batcher in started:
        batcher.close()
        assert batcher.join(10)


def ask(batcher: Batcher, *lengths: int) -> Reply:
    reply = batcher.reserve(len(lengths))
    batcher.put(texts(*lengths), reply)
    return reply


async def test_answers_come_in_order(start: Callable[..., Batcher]) -> None:
    reply = ask(start(Backend()), 3, 90, 5, 60)
    assert await reply.future == [3, 90, 5, 60]
    assert reply.timings.inference_s > 0


async def test_what_waits_shares_a_pass(start: Callable[..., Batcher]) -> None:
    gate = Gate()
    batcher = start(backend := Backend(gate))
    first = ask(batcher, 2)
    await asyncio.to_thread(gate.entered.wait, 10)
    others = [ask(batcher, 3), ask(batcher, 4, 5)]
    gate.opened.set()
    assert [await reply.future for reply in [first, *others]] == [[2], [3], [4, 5]]
    assert backend.batches == [[2], [3, 4, 5]]


async def test_a_caller_who_left_costs_no_pass_and_hurts_nobody(start: Callable[..., Batcher]) -> None:
    gate = Gate()
    batcher = start(backend := Backend(gate))
    first = ask(batcher, 2)
    await asyncio.to_thread(gate.entered.wait, 10)
    gone, stays = ask(batcher, 7), ask(batcher, 8)
    batcher.release(gone)
    batcher.release(first)  # gone in the middle of its pass
    gate.opened.set()
    assert await stays.future == [8]
    assert backend.batches == [[2], [8]]


async def test_only_the_text_that_cannot_be_computed_fails(start: Callable[..., Batcher]) -> None:
    def poison(lengths: list[int]) -> None:
        if 13 in lengths:
            raise RuntimeError("boom")

    gate = Gate()
    backend = Backend(gate)
    batcher = start(backend)
    first = ask(batcher, 1)
    await asyncio.to_thread(gate.entered.wait, 10)
    bad, good = ask(batcher, 13), [ask(batcher, n) for n in (2, 3, 4, 5)]
    backend.on = poison
    gate.opened.set()
    assert [await reply.future for reply in [first, *good]] == [[1], [2], [3], [4], [5]]
    with pytest.raises(InferenceFailed) as failure:
        await bad.future
    assert "boom" not in failure.value.message
    assert await ask(batcher, 6).future == [6]


@pytest.mark.parametrize(
    "error",
    [
        PredictorDown("it is down"),
        Overloaded("it is busy"),
        RequestTimeout("it is late"),
        NotReady("not now"),
        PredictorFailed("it is no Triton"),
    ],
)
async def test_what_is_no_inputs_fault_is_told_all_and_not_tried_again(
    start: Callable[..., Batcher], error: ModelServeError
) -> None:
    def fail(lengths: list[int]) -> None:
        raise error

    backend = Backend(fail)
    with pytest.raises(type(error), match=error.message):
        await ask(start(backend), 4, 5, 6, 7).future
    assert backend.batches == [[4, 5, 6, 7]]


async def test_an_error_of_the_remote_fails_the_input_that_it_is_about(start: Callable[..., Batcher]) -> None:
    def refuse(lengths: list[int]) -> None:
        if 6 in lengths:
            raise PredictorFailed("token 77 is not for this model", of_input=True)

    gate = Gate()
    backend = Backend(gate)
    batcher = start(backend)
    first = ask(batcher, 1)
    await asyncio.to_thread(gate.entered.wait, 10)
    bad, good = ask(batcher, 6), [ask(batcher, n) for n in (4, 5, 7)]
    backend.on = refuse
    gate.opened.set()
    assert [await reply.future for reply in [first, *good]] == [[1], [4], [5], [7]]
    with pytest.raises(PredictorFailed, match="token 77"):
        await bad.future


async def test_out_of_memory_splits_the_batch(start: Callable[..., Batcher]) -> None:
    def small_device(lengths: list[int]) -> None:
        if sum(lengths) > 10:
            raise OutOfMemory("10 is all there is")

    batcher = start(Backend(small_device))
    assert await ask(batcher, 4, 5, 6, 7).future == [4, 5, 6, 7]
    with pytest.raises(InferenceFailed, match="no memory for an input of 11 tokens"):
        await ask(batcher, 11).future


async def test_even_system_exit_in_model_code_is_survived(start: Callable[..., Batcher]) -> None:
    def leave(lengths: list[int]) -> None:
        if 9 in lengths:
            raise SystemExit(1)

    batcher = start(Backend(leave))
    with pytest.raises(InferenceFailed):
        await ask(batcher, 9).future
    assert await ask(batcher, 3).future == [3]


async def test_a_full_queue_refuses_and_says_when_to_come_back(start: Callable[..., Batcher]) -> None:
    gate = Gate()
    batcher = start(Backend(gate), size=3)
    first = ask(batcher, 1)
    await asyncio.to_thread(gate.entered.wait, 10)
    waiting = ask(batcher, 2, 3)
    with pytest.raises(Overloaded) as refusal:
        batcher.reserve(2)
    assert refusal.value.retry_after_s >= 1
    batcher.release(waiting)  # its caller left: there is room again
    taken = ask(batcher, 4, 5)
    gate.opened.set()
    assert await first.future == [1]
    assert await taken.future == [4, 5]


async def test_a_failed_request_leaves_no_count_behind(start: Callable[..., Batcher]) -> None:
    batcher = start(Backend(), size=2)
    for _ in range(5):
        reply = batcher.reserve(2)  # refused in preprocessing: never put
        reply.fail(InferenceFailed("no"))
        with pytest.raises(InferenceFailed):
            await reply.future
        batcher.release(reply)
    reply = ask(batcher, 1, 2)
    assert await reply.future == [1, 2]
    batcher.release(reply)
    deadline = time.monotonic() + 10
    while batcher.busy():  # the stream ends its pass after it has told the answer
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def test_closing_answers_who_waits(start: Callable[..., Batcher]) -> None:
    gate = Gate()
    batcher = start(Backend(gate))
    running = ask(batcher, 1)
    await asyncio.to_thread(gate.entered.wait, 10)
    waiting = ask(batcher, 2)
    batcher.close()
    with pytest.raises(NotReady):
        await waiting.future
    with pytest.raises(NotReady):
        batcher.reserve(1)
    gate.opened.set()
    assert await running.future == [1]


async def test_a_lost_device_answers_everybody(start: Callable[..., Batcher]) -> None:
    gate = Gate()
    backend = Backend(gate)
    batcher = start(backend)
    running = ask(batcher, 1)
    await asyncio.to_thread(gate.entered.wait, 10)
    waiting = ask(batcher, 2)

    def lose(lengths: list[int]) -> None:
        raise DeviceLost("CUDA error: device-side assert triggered")

    backend.on = lose
    gate.opened.set()
    assert await running.future == [1]
    with pytest.raises(InferenceFailed):
        await waiting.future
    assert batcher.lost
    with pytest.raises(NotReady):
        batcher.reserve(1)


async def test_a_hanging_pass_is_seen(start: Callable[..., Batcher]) -> None:
    gate = Gate()
    batcher = start(Backend(gate))
    assert batcher.stuck_s() == 0
    reply = ask(batcher, 1)
    await asyncio.to_thread(gate.entered.wait, 10)
    assert batcher.stuck_s() > 0
    gate.opened.set()
    assert await reply.future == [1]


async def test_the_texts_of_one_request_go_to_every_stream_at_once(start: Callable[..., Batcher]) -> None:
    together = threading.Barrier(3)

    def meet(lengths: list[int]) -> None:
        together.wait(5)

    batcher = start(Backend(meet, streams=3))
    reply = ask(batcher, 60, 70, 80)  # no two of them fit a pass
    assert await reply.future == [60, 70, 80]


@pytest.mark.parametrize(("pass_s", "lengths", "every_core"), [(0.0, (1, 2), False), (0.2, (40, 60), True)])
async def test_a_crowd_has_every_core_only_when_its_pass_is_long(
    start: Callable[..., Batcher], pass_s: float, lengths: tuple[int, int], every_core: bool
) -> None:
    gate = Gate()

    def compute(lengths: list[int]) -> None:
        time.sleep(pass_s)
        if lengths == [5]:
            gate(lengths)

    batcher = start(backend := Backend(compute))
    await ask(batcher, 100).future  # tells how long a pass takes
    before = ask(batcher, 5)
    await asyncio.to_thread(gate.entered.wait, 10)
    crowd = [ask(batcher, length) for length in lengths]
    gate.opened.set()
    for reply in (before, *crowd):
        await reply.future
    await ask(batcher, *lengths).future
    assert backend.batches == [[100], [5], [*lengths], [*lengths]]
    assert backend.alone == [True, True, every_core, True], "one caller has every core in any case"


async def test_what_another_stream_leaves_is_the_first_streams(start: Callable[..., Batcher]) -> None:
    """Who may take every core, and does when nothing else runs."""
    gates = {99: Gate(), 98: Gate()}
    batcher = start(backend := Backend(lambda lengths: gates[lengths[0]](lengths) if lengths[0] in gates else None, 2))
    for _ in range(20):
        first = ask(batcher, 99)
        await asyncio.to_thread(gates[99].entered.wait, 10)
        second = ask(batcher, 98)  # the other stream's
        await asyncio.to_thread(gates[98].entered.wait, 10)
        gates[99].opened.set()
        await first.future
        lone = ask(batcher, 5)  # it waits a little for the pass that runs
        gates[98].opened.set()
        await second.future
        await lone.future
        for gate in gates.values():
            gate.entered.clear()
            gate.opened.clear()
    found = [alone for lengths, alone in zip(backend.batches, backend.alone, strict=True) if lengths == [5]]
    assert found == [True] * 20


async def test_a_caller_alone_never_waits(start: Callable[..., Batcher], monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def noted(*args: Any) -> float:
        pauses.append(pause_s(*args))
        return pauses[-1]

    monkeypatch.setattr("modelserve.runtime.batcher.pause_s", noted)
    batcher = start(Backend(lambda lengths: time.sleep(0.1) if len(lengths) > 1 else None))
    for lengths in ([50, 50, 20], [50, 50], [20]):  # several passes, one, and then less than before
        assert await ask(batcher, *lengths).future == lengths
    assert set(pauses) == {0.0}


async def test_random_callers_all_get_their_own_answer(start: Callable[..., Batcher]) -> None:
    batcher = start(Backend(streams=3), size=10_000)

    async def caller(seed: int) -> None:
        lengths = [1 + (seed * 7 + i * 13) % 40 for i in range(1 + seed % 9)]
        reply = ask(batcher, *lengths)
        if seed % 5 == 0:
            batcher.release(reply)
            return
        assert await reply.future == lengths
        batcher.release(reply)

    await asyncio.gather(*(caller(seed) for seed in range(300)))
    assert await ask(batcher, 5).future == [5]
