"""What a server process holds of the machine's memory, as the kernel counts it."""

from __future__ import annotations

import re
from pathlib import Path

MIB = 2**20


def resident(pid: int) -> int:
    """Bytes of memory that the process holds now."""
    return _status(pid, "VmRSS")


def peak(pid: int) -> int:
    """The most that it has held since `forget_peak`, or since it was started."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None, name
    return int(found[1]) * 1024
