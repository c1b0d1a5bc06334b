"""What the answers of a server's health routes mean over time. Pure: whoever asks hands in the clock's value."""

from __future__ import annotations

from modelserve.deploy.probe import Answer

_MISSES = 3
"""Answers in a row that are not "ready" before a run is said not to answer: one late answer is no event."""
_DEAD = 3
"""Answers in a row that say "not live" before the server is killed."""
_SILENT_S = 60.0
"""An event loop that has not turned for so long never will (as in modelserve/supervisor.py)."""
_SILENT_AT_START_S = 300.0
"""Before the first answer: imports from a network's disk that is cold, which must not be taken for a hang."""


class Health:
    """Of one server process."""

    def __init__(self, now: float) -> None:
        self.ready = False
        self.was_ready = False
        self._ready_since = now
        self._heard = now
        """When it last answered, whatever."""
        self._silent_s = _SILENT_AT_START_S
        self._misses = 0
        self._dead = 0

    def see(self, answer: Answer, now: float) -> str:
        """Why the server must be killed; "" when it need not be."""
        if answer.ready:
            if not self.ready:
                self._ready_since = now
            self.ready = self.was_ready = True
            self._misses = 0
        else:
            self._misses += 1
            self.ready = self.ready and self._misses < _MISSES
        self._dead = 0 if answer.live else self._dead + 1
        if answer.answered:
            self._heard = now
            self._silent_s = _SILENT_S
        if self._dead >= _DEAD:
            return "a forward pass hangs or its device is lost"
        if now - self._heard > self._silent_s:
            return f"it has not answered for {self._silent_s:g} s"
        return ""

    def healthy_s(self, now: float) -> float:
        """For how long it has been ready without a break."""
        return now - self._ready_since if self.ready else 0.0
