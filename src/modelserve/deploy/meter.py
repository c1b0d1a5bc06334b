"""What a process and all its children use, and how often a counter moves: rates between two looks.

Knows no run. One thread at a time.
"""

from __future__ import annotations

import time

import psutil

from modelserve.deploy.target import Usage


class Meter:
    """Looks at this process and what it has started: that is what a run costs."""

    def __init__(self) -> None:
        self._seen = time.monotonic()
        self._cpu_s: dict[int, float] = {}
        self._requests: float | None = None

    def look(self, requests: float | None) -> Usage:
        """requests: the counter as it is now; it begins at 0 again with another server."""
        now = time.monotonic()
        passed_s, self._seen = max(1e-3, now - self._seen), now
        cpu_s, memory_bytes = self._tree()
        known = self._cpu_s.keys() & cpu_s.keys()
        cpu = sum(cpu_s[pid] - self._cpu_s[pid] for pid in known) / passed_s if known else None
        before, self._requests = self._requests, requests
        rate = None
        if requests is not None and before is not None:
            rate = (requests - before if requests >= before else requests) / passed_s
        self._cpu_s = cpu_s
        return Usage(None if cpu is None else max(0.0, cpu), memory_bytes, rate)

    def _tree(self) -> tuple[dict[int, float], int]:
        """CPU seconds by pid, and the bytes in memory of all together; shared pages count for each."""
        cpu_s, memory_bytes = {}, 0
        own = psutil.Process()
        for process in (own, *own.children(recursive=True)):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    memory_bytes += process.memory_info().rss
                cpu_s[process.pid] = times.user + times.system
            except psutil.Error:
                continue  # it has just ended, or has become another user's
        return cpu_s, memory_bytes
