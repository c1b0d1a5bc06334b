"""The numbers of one text in the making: waiting, running, how soon it began and how fast it goes on.

Knows no engine and no protocol. Used from the engine's thread and the event loop: whoever ends it first counts.
"""

from __future__ import annotations

import threading
import time

from modelserve.runtime import metrics


class Meter:
    """Counted as waiting from its making, as running from its first token, and not at all from `end` on."""

    __slots__ = ("_began", "_last", "_lock", "_running", "_started", "_tokens", "_waiting", "open")

    def __init__(self, model_name: str) -> None:
        self._waiting = [gauge.labels(model_name) for gauge in (metrics.waiting, metrics.vllm_waiting)]
        self._running = [gauge.labels(model_name) for gauge in (metrics.running, metrics.vllm_running)]
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._last = 0.0
        self._tokens = 0
        self._began = False
        """Counted as running: said under the lock, which a count of tokens is not."""
        self.open = True
        for gauge in self._waiting:
            gauge.inc()

    @staticmethod
    def declare(model_name: str) -> None:
        """The gauges are there, at 0, before anybody has asked: an autoscaler reads them from the start."""
        for gauge in (metrics.waiting, metrics.vllm_waiting, metrics.running, metrics.vllm_running):
            gauge.labels(model_name)

    def token(self) -> None:
        """One more, now."""
        now = time.monotonic()
        if self._tokens:
            metrics.time_per_output_token.observe(now - self._last)
        else:
            metrics.time_to_first_token.observe(now - self._started)
            self._move()
        self._tokens += 1
        self._last = now

    def end(self) -> None:
        with self._lock:
            if not self.open:
                return
            self.open = False
            gauges = self._running if self._began else self._waiting
        for gauge in gauges:
            gauge.dec()
        metrics.tokens_generated.inc(self._tokens)

    def _move(self) -> None:
        with self._lock:
            if not self.open:
                return
            self._began = True
            for gauge in self._waiting:
                gauge.dec()
            for gauge in self._running:
                gauge.inc()
