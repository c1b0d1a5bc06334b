"""The cluster's seconds. They pass faster than ours, or only when a test says so."""

from __future__ import annotations

import threading
import time


class Clock:
    """seconds: how many of ours one of the cluster's takes. Timestamps of objects are real ones all the same."""

    def __init__(self, seconds: float, *, held: bool) -> None:
        self._seconds = seconds
        self._since = time.monotonic()
        self._past = 0.0
        self.held = held
        """Whether time passes only by `pass_`."""
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        return self._seconds

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        now = self.now()
        with self._lock:
            self._past, self._since, self._seconds = now, time.monotonic(), seconds

    def now(self) -> float:
        """Of the cluster, since it began."""
        with self._lock:
            if self.held:
                return self._past
            return self._past + (time.monotonic() - self._since) / self._seconds

    def pass_(self, until: float) -> None:
        with self._lock:
            self._past = max(self._past, until)
