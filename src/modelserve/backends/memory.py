"""Host memory that the allocator keeps after forward passes, handed back from time to time. Knows no torch.

Texts of all lengths leave holes of all sizes behind, and glibc keeps them: MiniLM's server grew from 490 to 860 MiB in
a quarter of an hour. Smaller mmap thresholds keep it flat too, but cost a tenth of the throughput in page faults.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from itertools import count

_PASSES = 8
"""Passes between two calls: a call costs some milliseconds and the page faults after it, a pass a tenth of a second."""


class HostMemory:
    """Counts passes; safe for several threads, since `next` on a count is atomic."""

    def __init__(self) -> None:
        self._passes = count(1)
        self._trim = _malloc_trim()

    def after_pass(self) -> None:
        if self._trim is not None and next(self._passes) % _PASSES == 0:
            self._trim(0)


def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's; None with another C library, whose allocator keeps less."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return trim
