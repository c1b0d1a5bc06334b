"""The engine that is vLLM's server: each sequence is one streamed request for completions, in token ids both ways.

Texts, templates, stop strings and tools are this server's; vLLM computes. A sequence is cancelled by hanging up. Knows
no configuration and how no process is started (vllm_server.py). One thread with an event loop; it alone calls sinks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from modelserve.backends.engine import EngineLimits, end
from modelserve.backends.vllm_chunks import Chunks, Refused, refusal
from modelserve.backends.vllm_http import Broken, Call, Client, request
from modelserve.backends.vllm_request import body
from modelserve.backends.vllm_server import VllmServer
from modelserve.errors import InferenceFailed, ModelServeError, NotReady
from modelserve.generation import Finish, Sequence

log = logging.getLogger(__name__)

_AT_ONCE = 512
"""Requests that vLLM has at once, as long as it runs no more: each is a connection, and more wait here for less."""
_LOOK_S = 0.5
"""Between two looks at its health: a dead engine core is known within a second, also when nobody asks."""
_HEALTH_S = 10.0
_QUIET_S = 5.0
"""After so long without a token its counters are asked whether it computes: a long prompt takes steps without any."""
_METRICS_S = 5.0
_CLOSED = "the server is shutting down"


class VllmEngine:
    """A vLLM server that is ready."""

    def __init__(
        self,
        server: VllmServer,
        client: Client,
        *,
        limits: EngineLimits,
        end_ids: Collection[int],
        about: Mapping[str, Any],
    ) -> None:
        self.limits = limits
        self.end_ids = end_ids
        self.lost = False
        self._server = server
        self._client = client
        self._about = about
        self._lock = threading.Lock()
        self._taken = 0
        """Sequences that are not over yet."""
        self._pending: deque[Sequence] = deque()
        self._streams: dict[Sequence, _Stream] = {}
        self._at_once = max(_AT_ONCE, 2 * limits.max_running)
        self._running = 0
        self._heard = 0.0
        self._closed = False
        self._dead = False
        """Its HTTP server has said that the engine behind it is."""
        self._looking = asyncio.run_coroutine_threadsafe(self._look(), client.loop)
        server.on_end = self._ended
        server.watch()

    def start(self, sequence: Sequence) -> None:
        with self._lock:
            refused = self._refusal()
            if refused is None:
                self._taken += 1
                self._client.loop.call_soon_threadsafe(self._take, sequence)
        if refused is not None:
            end(sequence, refused)

    def cancel(self, sequence: Sequence) -> None:
        sequence.cancelled = True
        with self._lock:
            if self._refusal() is None:
                self._client.loop.call_soon_threadsafe(self._drop, sequence)

    def running(self) -> int:
        return self._running

    def waiting(self) -> int:
        return max(0, self._taken - self._running)

    def stuck_s(self) -> float:
        """Seconds without a token for anybody and without a step that its counters show."""
        heard = self._heard
        return time.monotonic() - heard if heard and self._streams else 0.0

    def close(self) -> None:
        with self._lock:
            gone = self._closed or self.lost
            self._closed = True
            if gone:
                return
            self._client.loop.call_soon_threadsafe(self._end_all, NotReady(_CLOSED))
        self._server.stop()

    def join(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        return self._server.join(timeout_s) and self._client.join(max(0.0, deadline - time.monotonic()))

    def describe(self) -> dict[str, Any]:
        return {**self._about, "max_running": self.limits.max_running}

    async def metrics(self, accept: str) -> bytes:
        """vLLM's own, in the format that it chose of those accepted; from another event loop. Empty when it is gone."""
        with self._lock:
            if self._refusal() is not None:
                return b""
            asked = asyncio.run_coroutine_threadsafe(self._metrics(accept), self._client.loop)
        try:
            return await asyncio.wrap_future(asked)
        except Broken as error:
            log.debug("vLLM's metrics could not be read: %s", error)
        except asyncio.CancelledError:  # by the end of vLLM, or because who asks has left
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        return b""

    def finished(self, sequence: Sequence, finish: Finish | ModelServeError | None) -> None:
        """From its stream: over, and why; None where its sink has had enough or is gone."""
        stream = self._streams.pop(sequence, None)
        if stream is None:
            return
        self._running -= stream.running
        self._over()
        if finish is not None:
            end(sequence, self._failure() if self.lost and isinstance(finish, InferenceFailed) else finish)
        while self._pending and len(self._streams) < self._at_once and not self._closed:
            self._open(self._pending.popleft())

    def heard(self) -> None:
        self._heard = time.monotonic()

    def began(self) -> None:
        self._running += 1

    def _refusal(self) -> ModelServeError | None:
        if self._closed:
            return NotReady(_CLOSED)
        return self._failure() if self.lost else None

    def _failure(self) -> InferenceFailed:
        how = "'s engine has died" if self._dead else f" {self._server.how}"
        return InferenceFailed(f"vLLM{how}; this server must be restarted")

    def _take(self, sequence: Sequence) -> None:
        if (refused := self._refusal()) is not None:
            self._over()
            end(sequence, refused)
        elif len(self._streams) < self._at_once:
            self._open(sequence)
        else:
            self._pending.append(sequence)

    def _open(self, sequence: Sequence) -> None:
        if sequence.cancelled:  # before `_drop` could find it
            self._over()
            return
        if not self._streams:
            self._heard = time.monotonic()
        stream = self._streams[sequence] = _Stream(self, sequence)
        self._client.open(stream.call)

    def _drop(self, sequence: Sequence) -> None:
        stream = self._streams.get(sequence)
        if stream is not None:
            stream.call.abort()
            self.finished(sequence, None)
        elif sequence in self._pending:
            self._pending.remove(sequence)
            self._over()

    def _over(self) -> None:
        with self._lock:
            self._taken -= 1

    def _end_all(self, error: ModelServeError) -> None:
        pending, self._pending = list(self._pending), deque()
        for stream in list(self._streams.values()):
            stream.call.abort()
            self.finished(stream.sequence, error)
        for sequence in pending:
            self._over()
            end(sequence, error)

    def _ended(self) -> None:
        """The process is gone; from the thread that waits for it."""
        with self._lock:
            self.lost = self.lost or not self._closed
        if self.lost:
            log.error("vLLM %s; liveness turns false. Its last lines:\n%s", self._server.how, self._server.last_lines())

        def leave() -> None:
            self._looking.cancel()
            self._end_all(self._failure() if self.lost else NotReady(_CLOSED))
            self._client.close()

        self._client.loop.call_soon_threadsafe(leave)

    async def _look(self) -> None:
        """Whether its engine lives: the process that answers HTTP may outlive the one that computes."""
        counters: list[bytes] = []
        asked = 0.0
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                status, _ = await self._client.ask("/health", timeout_s=_HEALTH_S)
            except Broken as error:  # its end is seen by whoever waits for it; a busy one answers later
                log.debug("vLLM's health could not be asked: %s", error)
                continue
            if status == 503:
                log.error("vLLM says that its engine is dead; liveness turns false")
                with self._lock:
                    self._dead = self.lost = True
                self._end_all(self._failure())
                self._server.stop()
                return
            now = time.monotonic()
            if self.stuck_s() > _QUIET_S and now - asked > _QUIET_S:
                asked = now
                with contextlib.suppress(Broken):
                    found = await self._counters()
                    if found != counters:
                        counters = found
                        self.heard()

    async def _metrics(self, accept: str) -> bytes:
        _, found = await self._client.ask("/metrics", accept=accept, timeout_s=_METRICS_S)
        return found

    async def _counters(self) -> list[bytes]:
        """Those of its steps: the others tell of this process and of this very request."""
        return [line for line in (await self._metrics("text/plain")).splitlines() if line.startswith(b"vllm:")]


class _Stream:
    """One sequence at vLLM. Lives on the client's loop."""

    def __init__(self, engine: VllmEngine, sequence: Sequence) -> None:
        self.sequence = sequence
        self.running = False
        self._engine = engine
        self._rest = b""
        self._chunks = Chunks(sequence)
        self._streamed = not sequence.sampling.prompt_logprobs
        sent = request("POST", "/v1/completions", body(sequence))
        self.call = Call(sent, self._body, self._done)

    def _body(self, status: int, data: bytes) -> None:
        self._engine.heard()
        self._rest += data
        if status != 200 or not self._streamed:
            return
        *events, self._rest = self._rest.split(b"\n\n")
        for event in events:
            if event.startswith(b"data: {") and not self._hear(event[6:]):
                return

    def _hear(self, event: bytes) -> bool:
        """Whether it goes on."""
        try:
            enough = self._chunks.hear(event)
        except Refused as refused:
            self._leave(refused.error)
            return False
        except msgspec.DecodeError as error:
            log.error("vLLM sent what is not understood (%s): %.500s", error, event)
            self._leave(InferenceFailed("vLLM's answer was not understood"))
            return False
        except Exception:  # a sink is the server's; what it raises is a fault of ours and must not end the others
            log.exception("a sink failed")
            self._leave(None)
            return False
        if self._chunks.count and not self.running:
            self.running = True
            self._engine.began()
        if enough and self._chunks.finish is not None:
            self.call.let_go()
            self._engine.finished(self.sequence, self._chunks.finish)
        elif enough:
            self._leave(None)
        return not enough

    def _leave(self, finish: Finish | ModelServeError | None) -> None:
        self.call.abort()
        self._engine.finished(self.sequence, finish)

    def _done(self, status: int, error: Broken | None) -> None:
        """The answer is over, which its text did not say."""
        if error is None and status == 200 and not self._streamed:
            if self._hear(self._rest):
                self._leave(InferenceFailed("vLLM's answer was not whole"))
        elif error is None and status != 200:
            self._leave(refusal(status, self._rest))
        else:
            log.warning("vLLM's answer was not whole: %s", error or "the stream has no last event")
            self._leave(InferenceFailed("vLLM's answer was not whole"))
