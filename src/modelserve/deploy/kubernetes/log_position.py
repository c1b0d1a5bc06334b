"""How far a log has been read, so that reading goes on there: no line lost, none twice. Pure.

The API gives a log again from a whole second on. So what has been seen of the newest seconds is kept, and known when it
comes again; each line carries its time, to the nanosecond, as long as it is asked for with `timestamps`.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime

from modelserve.deploy.kubernetes import log_request

_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?")
_AGAIN_S = 1
"""Lines of two streams of one container may be out of order by a moment, so a second more is asked for."""


class Position:
    """Of one container. Memory: the lines of two seconds."""

    def __init__(self) -> None:
        self._seen: dict[int, Counter[int]] = {}
        """Lines, as hashes, by the second in which they were written."""
        self._again: Counter[int] = Counter()
        """Those of them that are to come once more."""
        self._first: tuple[int, bytes] | None = None
        """When the first line was written: what is older, such as what is before a tail, was not asked for."""
        self._stamp, self._second = b"", 0
        self._newest = 0
        self._odd: bytes | None = None

    @property
    def since(self) -> str:
        """The time to ask from, "" as long as no line has been seen."""
        if not self._newest:
            return ""
        return datetime.fromtimestamp(self._newest - _AGAIN_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def resume(self) -> None:
        """What is taken from now on was asked for from `since` on."""
        self._again = sum(self._seen.values(), Counter())

    def take(self, line: bytes) -> str | None:
        """The line without its time; None where it was there before."""
        found = _STAMP.match(line)
        if found is None:
            return self._take_odd(line)
        if found[1] + found[3] != self._stamp:
            self._stamp = found[1] + found[3]
            self._second = int(datetime.fromisoformat(self._stamp.decode()).timestamp())
        when = self._second, (found[2] or b"").ljust(9, b"0")
        known = hash(line)
        if left := self._again.pop(known, 0):
            if left > 1:
                self._again[known] = left - 1
            return None
        if self._again and self._first is not None and when < self._first:
            return None
        self._first = self._first or when
        self._keep(known)
        return log_request.text(line[found.end() :])

    def _keep(self, known: int) -> None:
        if self._second > self._newest:
            self._newest = self._second
            for second in [one for one in self._seen if one < self._newest - _AGAIN_S]:
                del self._seen[second]
        if self._second >= self._newest - _AGAIN_S:
            self._seen.setdefault(self._second, Counter())[known] += 1

    def _take_odd(self, line: bytes) -> str | None:
        """No line of the log but the kubelet's own words, such as that the log is gone. Once is enough."""
        if line == self._odd:
            return None
        self._odd = line
        return log_request.text(line)
