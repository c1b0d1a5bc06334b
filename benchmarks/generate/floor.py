"""How fast this machine reads memory: no step of a model is faster than reading its weights once."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_BYTES = 1 << 29
"""Of each thread: far more than any cache holds."""
_TIMES = 6


def bandwidth(threads: int) -> float:
    """Bytes a second, the best of some times: each thread sums an array of its own."""
    arrays = [np.ones(_BYTES // 8, dtype=np.float64) for _ in range(threads)]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_TIMES):
            started = time.perf_counter()
            list(pool.map(np.sum, arrays))  # lets go of the interpreter's lock
            best = min(best, time.perf_counter() - started)
    return threads * _BYTES / best


if __name__ == "__main__":
    print(f"{bandwidth(len(os.sched_getaffinity(0))) / 1e9:.1f} GB/s")
