"""What goes into the next step of an engine: a pure function of who runs and who waits. No clock, lock, I/O or torch.

Every running sequence whose text is known to the memory computes one token; newcomers compute theirs in chunks, the
oldest first, as many as the running ones can wait for. Who came first is admitted first and nobody overtakes. Where
memory is short the youngest gives its place back and waits again, first in the queue: what it had is computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

STALL = 1.6
"""A step with a chunk of one newcomer takes at most so many times one without: what running streams see of it. 3 is the
most that is promised, and no step takes exactly what was foreseen: with 1.75 the longest gap was 2.2 to 3.5 times the
usual one (python -m benchmarks.generate)."""
_MANY = 6
"""Newcomers, where they are several, weigh so many times as much as those who wait for the step: a step of nine texts
takes four fifths of one of sixteen. With 1 sixteen callers got 238 tokens/s, with 2 285. While several come in at once
steps are longer than STALL promises, up to ten times the usual for one who runs alone."""
_FIRST_CHUNK = 32
"""Tokens of a chunk before any rate was measured."""
_LONGEST_S = 1.0
"""A step takes no longer for newcomers, though nobody else runs: a cancelled one and the next one wait for its end."""
_STRIDE = 16
"""Steps with newcomers have multiples of it, where these want so many: kernels are compiled for each number of tokens
that a step has, and steps of the same numbers find theirs."""
LEAST_CHUNK = 8
"""Below this newcomers would hardly get on, whatever the rates say."""
SCORED_CHUNK = 64
"""A chunk of a prompt whose tokens are scored: the logits of all its tokens are held at once."""
_HEADROOM = 64
"""Tokens by which those who run may grow before a newcomer that was let in must go again."""


class Row(Protocol):
    """What the policy sees of a sequence."""

    @property
    def length(self) -> int:
        """Tokens known: the prompt and what was generated."""

    @property
    def computed(self) -> int:
        """Of them, those that the memory holds. Running, all but one are."""

    @property
    def final(self) -> int:
        """Tokens at most, at its end."""

    @property
    def scored(self) -> bool:
        """Its prompt's tokens are still to be scored."""

    @property
    def cancelled(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the engine has."""

    rows: int
    """Most sequences at once."""
    tokens: int
    """Room for tokens in the memory; every sequence takes as much of it as the longest."""
    chunk: int
    """Tokens of newcomers in a step when nobody else runs."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What was measured of late; 0 for not yet."""

    step_s: float = 0.0
    """A step of running sequences without newcomers."""
    tokens_per_s: float = 0.0
    """Newcomers' tokens."""


@dataclass(slots=True)
class Plan:
    """Indices into `running` and `waiting`, in the order in which they came."""

    work: list[tuple[int, int]] = field(default_factory=list)
    """(row, tokens), a row being one of `running` or, from len(running) on, one of those that are admitted."""
    admitted: list[int] = field(default_factory=list)
    """Of `waiting`."""
    evicted: list[int] = field(default_factory=list)
    """Of `running`: they wait again."""
    dropped_running: list[int] = field(default_factory=list)
    dropped_waiting: list[int] = field(default_factory=list)


def plan(running: Sequence[Row], waiting: Sequence[Row], bounds: Bounds, pace: Pace) -> Plan:
    """The next step. `running` and `waiting`: the oldest first. Its work is empty only when nobody is left."""
    result = Plan(
        dropped_running=[i for i, row in enumerate(running) if row.cancelled],
        dropped_waiting=[i for i, row in enumerate(waiting) if row.cancelled],
    )
    rows = [i for i, row in enumerate(running) if not row.cancelled]
    while len(rows) > 1 and len(rows) * max(running[i].length for i in rows) > bounds.tokens:
        result.evicted.insert(0, rows.pop())
    decoding = [i for i in rows if _left(running[i]) == 1]
    result.work = [(i, 1) for i in decoding]
    reading = sum(_left(running[i]) > 1 for i in rows) + sum(not row.cancelled for row in waiting)
    reading = min(reading, bounds.rows - len(decoding))
    budget = newcomers_tokens(len(decoding), reading, bounds, pace)
    for i in rows:
        if _left(running[i]) > 1 and budget:
            n = _chunk(running[i], budget)
            result.work.append((i, n))
            budget -= n
    if result.evicted:
        return result
    present = [running[i] for i in rows]
    for i, row in enumerate(waiting):
        if row.cancelled:
            continue
        present.append(row)
        if not budget or len(present) > bounds.rows or not _fit(present, bounds):
            break
        n = _chunk(row, budget)
        result.work.append((len(running) + len(result.admitted), n))
        result.admitted.append(i)
        budget -= n
    return result


def newcomers_tokens(decoding: int, reading: int, bounds: Bounds, pace: Pace) -> int:
    """Tokens of newcomers in the next step; decoding: sequences that wait for it; reading: newcomers there is room for.

    Where many read they weigh more than those who decode: fifteen would otherwise come in one by one, a step of few
    texts at a time, because the sixteenth was first.
    """
    if not pace.tokens_per_s or (decoding and not pace.step_s):
        return min(_FIRST_CHUNK, bounds.chunk)
    seconds = _LONGEST_S
    if decoding:
        weight = max(1.0, _MANY * reading / decoding) if reading > 1 else 1.0
        seconds = min(_LONGEST_S, (STALL - 1) * pace.step_s * weight)
    tokens = min(bounds.chunk, max(LEAST_CHUNK, int(seconds * pace.tokens_per_s)))
    whole = tokens - (decoding + tokens) % _STRIDE
    return whole if whole >= LEAST_CHUNK else tokens


def _left(row: Row) -> int:
    return row.length - row.computed


def _chunk(row: Row, budget: int) -> int:
    return min(_left(row), budget, SCORED_CHUNK if row.scored else budget)


def _fit(rows: Sequence[Row], bounds: Bounds) -> bool:
    """They fit the memory, and go on fitting for a while. One alone always does: it was refused otherwise."""
    return len(rows) == 1 or len(rows) * max(min(row.final, row.length + _HEADROOM) for row in rows) <= bounds.tokens
