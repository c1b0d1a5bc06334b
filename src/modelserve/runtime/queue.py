"""Which waiting texts go into the next forward pass: a pure function of the queue. No clock, no lock, no I/O, no torch.

The oldest text always goes (nobody starves), with the texts nearest to its length: equal lengths share a block of
attention when packed and pad nothing when padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from modelserve.backends.base import Limits


class Waiting(Protocol):
    """What the policy sees of an entry."""

    @property
    def length(self) -> int:
        """Tokens."""

    @property
    def cancelled(self) -> bool: ...


class Arrived(Waiting, Protocol):
    """An entry that says when it came, on the clock of `now`."""

    @property
    def put_at(self) -> float: ...

    @property
    def reply(self) -> object:
        """Whose text it is: one and the same object for all texts of a request."""


_LEAST_SHARE_TOKENS = 128
"""Below this a pass is mostly overhead: nothing is divided into less (python -m benchmarks.passes)."""
_PADDING = 0.25
"""Most of a padded pass that may be padding, where that is more than a small pass: what is left out goes into the next
one, which is no longer for it."""
_FULL_TOKENS = 512
"""From here on a pass gains little by more tokens on a CPU; a GPU with its large budget does not wait for them."""
_COMPANY_S = 0.05
"""Longest time that little waits for a small pass on another stream to end."""
_RETURN_SHARE, _RETURN_S = 0.25, 0.02
"""Share of the last pass, and longest time, for which its callers are expected back before the next one begins."""


class Answered(NamedTuple):
    """The pass that ended last: how many callers had their last text in it, when it ended, and how long it took."""

    callers: int
    at: float
    lasted_s: float


def pause_s(
    waiting: Sequence[Arrived], running_tokens: Sequence[int], last: Answered, now: float, limits: Limits
) -> float:
    """Seconds for which a free stream should let what waits grow; 0 to begin at once.

    A caller alone never waits, however many texts it has: it is itself who was answered last, or it has not been. In a
    crowd of callers who ask again when they are answered, who begins with the first that is back makes passes of few
    texts, each mostly overhead. So what fills no pass waits for those who were just answered, and little waits for a
    small pass on another stream to end.
    """
    tokens = sum(entry.length for entry in waiting)
    full = len(waiting) >= limits.max_batch_size if limits.max_batch_size else False
    if full or tokens >= min(_FULL_TOKENS, limits.max_batch_tokens) or limits.layout == "single":
        return 0.0
    until = last.at + min(_RETURN_S, _RETURN_SHARE * last.lasted_s)
    if until > now and len({id(entry.reply) for entry in waiting if entry.put_at > last.at}) < last.callers:
        return until - now
    if tokens < _LEAST_SHARE_TOKENS and running_tokens and max(running_tokens) < _LEAST_SHARE_TOKENS:
        return max(0.0, waiting[0].put_at + _COMPANY_S - now)
    return 0.0


def next_batch(waiting: Sequence[Waiting], limits: Limits, free_streams: int = 1) -> tuple[list[int], list[int]]:
    """Indices into `waiting` (oldest first) that form the next batch, and those to drop because nobody waits for them.

    The batch is never empty while somebody waits; it exceeds the budget only by being one text. free_streams: how many
    streams could take a batch now; what waits is divided evenly between as many of them as it is enough for.
    """
    dropped = [i for i, entry in enumerate(waiting) if entry.cancelled]
    alive = [i for i, entry in enumerate(waiting) if not entry.cancelled] if dropped else range(len(waiting))
    if not alive:
        return [], dropped
    oldest = alive[0]
    length = waiting[oldest].length
    if limits.layout == "single":
        return [oldest], dropped
    most = limits.max_batch_size or len(alive)
    total = sum(waiting[i].length for i in alive)
    parts = min(free_streams, total // _LEAST_SHARE_TOKENS)
    budget = limits.max_batch_tokens if parts < 2 else min(limits.max_batch_tokens, -(-total // parts))
    if limits.layout == "equal":
        same = [i for i in alive if waiting[i].length == length]
        return same[: min(most, max(1, budget // max(1, length)))], dropped
    if limits.layout == "packed" and total <= budget and len(alive) <= most:
        return list(alive), dropped
    return _around(waiting, alive, oldest, budget, most, padded=limits.layout == "padded"), dropped


def _around(
    waiting: Sequence[Waiting], alive: Sequence[int], oldest: int, budget: int, most: int, *, padded: bool
) -> list[int]:
    """A run of at most so many of the texts, sorted by length, that contains the oldest one and fits the budget, with
    little padding."""
    order = sorted(alive, key=lambda i: waiting[i].length)
    lengths = [waiting[i].length for i in order]
    left = right = order.index(oldest)
    tokens = lengths[left]

    def cost(longest: int, texts: int, real: int) -> int:
        """Tokens of such a pass; more than any budget where too many of them would be padding."""
        if not padded:
            return real
        filled = texts * longest
        return filled if filled - real <= max(_LEAST_SHARE_TOKENS, _PADDING * filled) else budget + 1

    while right - left + 1 < most and (left > 0 or right < len(order) - 1):
        shorter = lengths[left] - lengths[left - 1] if left > 0 else None
        longer = lengths[right + 1] - lengths[right] if right < len(order) - 1 else None
        grow = shorter is None or (longer is not None and longer < shorter)
        candidate = lengths[right + 1] if grow else lengths[left - 1]
        count = right - left + 2
        if cost(max(lengths[right], candidate), count, tokens + candidate) > budget:
            if not grow or shorter is None:
                break
            candidate = lengths[left - 1]  # no room for a longer one; a shorter one may still fit
            if cost(lengths[right], count, tokens + candidate) > budget:
                break
            grow = False
        tokens += candidate
        if grow:
            right += 1
        else:
            left -= 1
    return sorted(order[left : right + 1])
