"""How many CPU cores this process may use. Knows no torch."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores(quota: Path = _QUOTA) -> int:
    """The cores that the scheduler allows, or the container's CPU limit where that is less; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        limit, period = quota.read_text().split()
    except (OSError, ValueError):  # no cgroup v2, or no limit that can be read
        return allowed
    if limit == "max":
        return allowed
    return max(1, min(allowed, int(limit) // int(period)))
