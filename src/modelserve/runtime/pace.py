"""How fast an engine's steps are of late, from the times that its thread measured. No clock, no lock.

A step's time depends on how many run, so it is kept by their number, doublings apart.
"""

from __future__ import annotations

from modelserve.runtime.schedule import LEAST_CHUNK, Pace

_NEW = 0.3
"""Share of the newest measurement: a few steps forget a pause of the machine."""


class Paces:
    """What `Pace` the schedule is told."""

    def __init__(self) -> None:
        self._step_s: dict[int, float] = {}
        """By the bit length of the number of sequences."""
        self._tokens_per_s = 0.0

    def now(self, running: int) -> Pace:
        """With so many sequences that run."""
        size = running.bit_length()
        known = min(self._step_s, key=lambda other: (abs(other - size), other), default=None)
        return Pace(0.0 if known is None else self._step_s[known], self._tokens_per_s)

    def took(self, seconds: float, running: int, newcomers: int) -> None:
        """A step of so many sequences that run, and so many tokens of newcomers."""
        if not newcomers:
            size = running.bit_length()
            self._step_s[size] = _mean(self._step_s.get(size, 0.0), seconds)
        elif newcomers >= LEAST_CHUNK:
            usual = self.now(running).step_s if running else 0.0
            # Never more than twice as fast as with the whole step's time: the usual one may be out of date.
            rate = newcomers / max(seconds - usual, seconds / 2)
            self._tokens_per_s = _mean(self._tokens_per_s, rate)


def _mean(former: float, newest: float) -> float:
    return newest if not former else former + _NEW * (newest - former)
