"""How often and when a server that crashed is started again. Pure; knows neither clock nor process."""

from __future__ import annotations

LIMIT = 5
"""Restarts without health in between: with the pauses a quarter of a minute, longer than a device takes to free the
memory of a process that was killed."""
SETTLED_S = 60.0
"""A server that answered for so long died of something new."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class Restarts:
    def __init__(self) -> None:
        self.count = 0
        """Since it was last healthy."""

    def pause_s(self, healthy_s: float) -> float | None:
        """Before the next start, after a crash; None when there have been enough. healthy_s: for how long the server
        that crashed had answered without a break."""
        if healthy_s >= SETTLED_S:
            self.count = 0
        self.count += 1
        if self.count > LIMIT:
            return None
        return float(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self.count - 1)))
