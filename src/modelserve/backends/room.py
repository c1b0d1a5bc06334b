"""How much memory a device has left, for what grows with the callers. Knows no model."""

from __future__ import annotations

from pathlib import Path

import torch

SHARE = {"cpu": 0.4, "cuda": 0.8}
"""Of what is free once the weights are loaded, for KV memory. A CPU shares it with the rest of the machine."""


def free_bytes(device: torch.device, *, cgroup: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> int:
    """What may still be allocated on `device`: the GPU's, or the machine's or the container's, whichever is less."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    free = _available(proc / "meminfo")
    limit, used = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    if limit is not None and used is not None:
        free = min(free, max(0, limit - used))
    return free


def _available(meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{meminfo} has no line MemAvailable")


def _number(path: Path) -> int | None:
    """None where there is no cgroup v2, or no limit."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
