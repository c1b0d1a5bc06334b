"""What a run ran on, and how much of it was somebody else's. Linux only."""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("modelserve", "torch", "transformers", "tokenizers", "uvicorn", "fastapi")
_TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> dict[str, str]:
    """Processor, memory, system and versions, each one line."""
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "processor": f"{model[1] if model else platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{int(memory[1]) / 2**20:.1f} GiB" if memory else "unknown",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(filter(None, map(_version, PACKAGES))),
    }


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:  # fastapi is the naive server's alone
        return ""


class Others:
    """The part of the machine that other processes, and other guests of its host, took since this was made."""

    def __init__(self) -> None:
        self._started, self._busy, self._stolen, self._ours = time.monotonic(), *_cpu_s()

    def share(self) -> tuple[float, float]:
        """(other processes, stolen by the hypervisor), 0 to 1 of all cores. Count after the children have ended."""
        busy, stolen, ours = _cpu_s()
        whole = (time.monotonic() - self._started) * (os.cpu_count() or 1)
        return max(0.0, busy - self._busy - (ours - self._ours)) / whole, (stolen - self._stolen) / whole


def _cpu_s() -> tuple[float, float, float]:
    """Seconds so far: busy (all processes), stolen, and this process with its ended children."""
    user, nice, system, _, _, irq, softirq, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ours = sum(usage.ru_utime + usage.ru_stime for usage in used)
    return (user + nice + system + irq + softirq) / _TICKS, stolen / _TICKS, ours
