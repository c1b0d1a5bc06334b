"""How fast an engine's steps are of late, from the times that its thread measured. No clock, no lock.

A step's time depends on how many run: it is kept by their number, and what lies between two numbers that were measured
is taken to lie on a line.
"""

from __future__ import annotations

from modelserve.runtime.schedule import LEAST_CHUNK, Pace

_NEW = 0.3
"""Share of the newest measurement: a few steps forget a pause of the machine."""
_LEAST = 0.25
"""Of the time of a step with newcomers, that they took so much of it is believed at least: what the step takes without
them may be out of date."""


class Paces:
    """What `Pace` the schedule is told."""

    def __init__(self) -> None:
        self._step_s: dict[int, float] = {}
        """By the number of sequences."""
        self._tokens_per_s = 0.0

    def now(self, running: int) -> Pace:
        """With so many sequences that run."""
        return Pace(self._usual_s(running), self._tokens_per_s)

    def took(self, seconds: float, running: int, newcomers: int) -> None:
        """A step of so many sequences that run, and so many tokens of newcomers."""
        if not newcomers:
            # The first of a number is slow, kernels are compiled for it: what its neighbours take is known better.
            self._step_s[running] = _mean(self._step_s.get(running) or self._usual_s(running), seconds)
        elif newcomers >= LEAST_CHUNK:
            usual = self._usual_s(running) if running else 0.0
            self._tokens_per_s = _mean(self._tokens_per_s, newcomers / max(seconds - usual, _LEAST * seconds))

    def _usual_s(self, running: int) -> float:
        """Of a step without newcomers; 0 when none was measured."""
        known = self._step_s
        below = max((n for n in known if n <= running), default=None)
        above = min((n for n in known if n >= running), default=None)
        if below is None:
            return 0.0 if above is None else known[above]
        if above is None:  # more than were ever seen: each of them takes as long as a newcomer's token
            return known[below] + ((running - below) / self._tokens_per_s if self._tokens_per_s else 0.0)
        if below == above:
            return known[below]
        return known[below] + (known[above] - known[below]) * (running - below) / (above - below)


def _mean(former: float, newest: float) -> float:
    return newest if not former else former + _NEW * (newest - former)
