"""Waiting texts (or rows) to answers: one queue, one thread per backend stream, one forward pass after another.

The reply travels with the request: each Entry holds the Reply of its request, and every accepted entry is answered
with its output, its own error, or shutdown. `reserve` and `Reply` belong to the event loop, `put` to any thread, the
streams to threads of their own. Knows no task and no protocol; what goes into a batch is decided in runtime/queue.py.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from modelserve.backends.base import Backend, DeviceLost, OutOfMemory
from modelserve.errors import (
    InferenceFailed,
    InvalidRequest,
    ModelServeError,
    NotReady,
    Overloaded,
    PredictorFailed,
    RequestTimeout,
)
from modelserve.runtime import metrics
from modelserve.runtime.queue import Answered, next_batch, pause_s
from modelserve.types import Output, Timings, Work

log = logging.getLogger(__name__)

_SHORT_S = 0.1
"""A pass that takes less gains too little from more cores: MiniLM's over 128 tokens is a tenth shorter on two of them,
for a third more CPU (python -m benchmarks.passes)."""


class Reply:
    """The answer to one request, filled piece by piece. Lives on the event loop; only `cancelled` is read elsewhere."""

    __slots__ = ("cancelled", "future", "loop", "outputs", "remaining", "timings", "waiting", "work")

    def __init__(self, inputs: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[Output]] = self.loop.create_future()
        self.work: Sequence[Work] = ()
        self.outputs: list[Output] = []
        self.remaining = 0
        self.waiting = inputs
        """Texts or rows that count towards the queue's size: accepted, in no pass yet."""
        self.timings = Timings()
        self.cancelled = False

    def fail(self, error: ModelServeError) -> None:
        """The first error answers the request; the rest of its texts are dropped from the queue."""
        self.cancelled = True
        if not self.future.done():
            self.future.set_exception(error)

    def fill(self, index: int, output: Output) -> None:
        self.outputs[index] = output
        self.remaining -= 1
        if not self.remaining and not self.future.done():
            self.future.set_result(self.outputs)


class Entry:
    """One piece of work in the queue. inputs: how many texts or rows of its request are in it."""

    __slots__ = ("index", "inputs", "length", "put_at", "reply", "work")

    def __init__(self, work: Work, reply: Reply, index: int, inputs: int, put_at: float) -> None:
        self.work = work
        self.reply = reply
        self.index = index
        self.inputs = inputs
        self.length = len(work)
        self.put_at = put_at

    @property
    def cancelled(self) -> bool:
        return self.reply.cancelled


class _Pass(NamedTuple):
    """A forward pass that runs now."""

    tokens: int
    started: float


class Batcher:
    """The queue of one model and the threads that empty it."""

    def __init__(
        self,
        backend: Backend[Any, Any],
        reduce: Callable[[Any, Sequence[Any]], list[Output]],
        *,
        max_queue_size: int,
    ) -> None:
        self._backend = backend
        self._reduce = reduce
        self._max_queue_size = max_queue_size
        self._queue: list[Entry] = []
        self._lock = threading.Lock()
        self._wakes = [threading.Condition(self._lock) for _ in range(backend.limits.streams)]
        self._idle: set[int] = set()
        """Streams that wait, each on its own condition, and have not been woken."""
        self._size = 0
        self._closed = False
        self._running: dict[int, _Pass] = {}
        self._tokens_per_s = 0.0
        self._last = Answered(0, 0.0, 0.0)
        self.lost = False
        """The device will not compute again; liveness turns false."""
        self._threads: list[threading.Thread] = [
            threading.Thread(target=self._stream, args=(n,), name=f"modelserve-stream-{n}", daemon=True)
            for n in range(backend.limits.streams)
        ]
        for thread in self._threads:
            thread.start()

    def reserve(self, inputs: int) -> Reply:
        """Accept a request of so many texts or rows, or raise Overloaded (with when to come back) or NotReady."""
        with self._lock:
            if self._closed or self.lost:
                raise NotReady("the server is shutting down" if self._closed else "the device has failed")
            if self._size + inputs > self._max_queue_size:
                raise Overloaded(
                    f"{self._size} inputs are waiting and {inputs} more do not fit the queue of "
                    f"{self._max_queue_size} (--max_queue_size); come back later",
                    retry_after_s=self._drain_s(),
                )
            self._size += inputs
            metrics.queue_size.inc(inputs)
        return Reply(inputs)

    def put(self, work: Sequence[Work], reply: Reply) -> None:
        """The work of an accepted request, an input in each piece or all in one; from any thread."""
        now = time.monotonic()
        reply.work = work
        reply.outputs = [None] * len(work)
        reply.remaining = len(work)
        with self._lock:
            if self._closed or self.lost:
                _answer(reply, NotReady("the server is shutting down" if self._closed else "the device has failed"))
                return
            if reply.cancelled:
                return
            inputs = reply.waiting // len(work)
            self._queue.extend(Entry(piece, reply, i, inputs, now) for i, piece in enumerate(work))
            self._wake()

    def release(self, reply: Reply) -> None:
        """Nobody waits for this request any more (or it is done): free what it holds of the queue."""
        reply.cancelled = True
        with self._lock:
            self._leave(reply.waiting)
            reply.waiting = 0

    def stuck_s(self) -> float:
        """Seconds that the longest running pass has taken so far."""
        started = min((one.started for one in list(self._running.values())), default=None)
        return 0.0 if started is None else time.monotonic() - started

    def busy(self) -> bool:
        """Somebody is waiting or computed for."""
        return self._size > 0 or bool(self._running)

    def close(self) -> None:
        """Stop accepting; answer what still waits with NotReady; let running passes end."""
        with self._lock:
            self._closed = True
            waiting, self._queue = self._queue, []
            while self._idle:
                self._wake()
        for entry in waiting:
            _answer(entry.reply, NotReady("the server is shutting down"))

    def join(self, timeout_s: float) -> bool:
        """Wait for the streams to end; false when one does not."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _leave(self, inputs: int) -> None:
        if inputs:
            self._size -= inputs
            metrics.queue_size.dec(inputs)

    def _drain_s(self) -> int:
        """Seconds, at the last measured rate, until the queue is empty; 1 to 60."""
        waiting = sum(entry.length for entry in self._queue)
        return min(60, max(1, math.ceil(waiting / self._tokens_per_s))) if self._tokens_per_s else 1

    def _stream(self, number: int) -> None:
        while True:
            with self._lock:
                while not self._closed and (wait_s := self._pause_s(number)) > 0:
                    self._idle.add(number)
                    self._wakes[number].wait(None if wait_s == math.inf else wait_s)
                    self._idle.discard(number)
                if self._closed:
                    return
                batch = self._take()
                if not batch:
                    continue
                alone = not self._running and not self._queue and self._for_every_core(batch)
                self._running[number] = _Pass(_tokens(batch), time.monotonic())
                if self._queue:
                    self._wake()  # the rest is another stream's: who put it woke one only
            ended = self._run(batch, alone)
            with self._lock:
                started = self._running.pop(number).started
                callers = len({id(entry.reply) for entry in batch if not entry.reply.waiting})
                self._last = Answered(callers, ended, ended - started)
                if self._queue:
                    self._wake()  # a stream may wait for this pass to end

    def _wake(self) -> None:
        """The first stream that waits looks again: one caller alone meets the same stream, with warm caches."""
        if self._idle:
            number = min(self._idle)
            self._idle.discard(number)
            self._wakes[number].notify()

    def _for_every_core(self, batch: list[Entry]) -> bool:
        """Whether a pass that has the machine to itself takes all of it: for few callers, and when it is long.

        Only ever the first stream's (`_pause_s`): OpenMP's threads of two streams would be too many to spin
        (environment.py).
        """
        few = len({id(entry.reply) for entry in batch}) <= len(self._threads)
        return few or _tokens(batch) > _SHORT_S * self._tokens_per_s

    def _pause_s(self, number: int) -> float:
        """Until a free stream should look again; 0 when it should take a batch now."""
        if not self._queue:
            return math.inf
        if number and not self._running:  # the first stream's, who may take every core; it wakes the others
            if 0 in self._idle:
                self._wake()
            return math.inf
        running = [one.tokens for one in self._running.values()]
        return pause_s(self._queue, running, self._last, time.monotonic(), self._backend.limits)

    def _take(self) -> list[Entry]:
        free = len(self._threads) - len(self._running)
        chosen, dropped = next_batch(self._queue, self._backend.limits, max(1, free))
        batch = [self._queue[i] for i in chosen]
        if len(chosen) + len(dropped) == len(self._queue):
            self._queue = []
        else:
            gone = {*chosen, *dropped}
            self._queue = [entry for i, entry in enumerate(self._queue) if i not in gone]
        left = 0
        for entry in batch:
            if not entry.reply.cancelled:  # a release since then has counted it already
                entry.reply.waiting -= entry.inputs
                left += entry.inputs
        self._leave(left)
        return batch

    def _run(self, batch: list[Entry], alone: bool) -> float:
        """One pass; on failure smaller ones, so that only the work that cannot be computed fails.

        Returns when it ended, which is before any of its callers can be back.
        """
        started = time.monotonic()
        failed: ModelServeError = InferenceFailed("the model failed on this input")
        try:
            outputs = self._backend.forward([entry.work for entry in batch], self._reduce, alone=alone)
        except (NotReady, Overloaded, RequestTimeout, PredictorFailed) as error:
            if not (isinstance(error, PredictorFailed) and error.of_input):  # no fault of any of the inputs
                for entry in batch:
                    _answer(entry.reply, error)
                return time.monotonic()
            failed = error
        except InvalidRequest as error:
            failed = error
        except DeviceLost:
            log.exception("the device has failed; liveness turns false")
            self._lose(batch)
            return time.monotonic()
        except OutOfMemory as error:
            log.warning("out of memory with %d inputs of length %d: %s", len(batch), _tokens(batch), error)
            failed = InferenceFailed(f"the device has no memory for an input of {batch[0].length} tokens")
        except BaseException:  # custom model code may raise anything; this thread must outlive it
            log.exception("a forward pass over %d inputs of length %d failed", len(batch), _tokens(batch))
        else:
            ended = time.monotonic()
            self._deliver(batch, outputs, started, ended)
            return ended
        if len(batch) == 1:
            ended = time.monotonic()
            _answer(batch[0].reply, failed)
            return ended
        middle = len(batch) // 2
        ends = []
        for half in (batch[:middle], batch[middle:]):
            if wanted := [entry for entry in half if not entry.cancelled]:  # others have gone in the meantime
                ends.append(self._run(wanted, alone))
        return min(ends, default=time.monotonic())

    def _deliver(self, batch: list[Entry], outputs: list[Output], started: float, ended: float) -> None:
        tokens = _tokens(batch)
        rate = tokens / max(ended - started, 1e-6)
        self._tokens_per_s = 0.8 * (self._tokens_per_s or rate) + 0.2 * rate
        metrics.batch_size.observe(sum(entry.inputs for entry in batch))
        metrics.batch_tokens.observe(tokens)
        try:
            batch[0].reply.loop.call_soon_threadsafe(_fill, batch, outputs, started, ended)
        except RuntimeError:  # the loop is closed: the process is ending and nobody waits
            log.debug("an answer came after the event loop had closed")

    def _lose(self, batch: list[Entry]) -> None:
        with self._lock:
            self.lost = True
            waiting, self._queue = self._queue, []
        for entry in [*batch, *waiting]:
            _answer(entry.reply, InferenceFailed("the device has failed; this server must be restarted"))


def _tokens(batch: list[Entry]) -> int:
    return sum(entry.length for entry in batch)


def _answer(reply: Reply, error: ModelServeError) -> None:
    """Fail a request from any thread."""
    try:
        reply.loop.call_soon_threadsafe(reply.fail, error)
    except RuntimeError:
        log.debug("an error came after the event loop had closed: %s", error)


def _fill(batch: list[Entry], outputs: list[Output], started: float, ended: float) -> None:
    """On the event loop: hand each entry its output and its request the times."""
    seen: set[int] = set()
    for entry, output in zip(batch, outputs, strict=True):
        reply = entry.reply
        if id(reply) not in seen:
            seen.add(id(reply))
            reply.timings.queue_s = max(reply.timings.queue_s, started - entry.put_at)
            reply.timings.inference_s += ended - started
        reply.fill(entry.index, output)
