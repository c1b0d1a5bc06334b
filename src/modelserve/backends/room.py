"""How much memory a device has left, for what grows with the callers. Knows no model."""

from __future__ import annotations

from pathlib import Path

import torch

from modelserve.errors import LoadError

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


def tokens_for(wanted: int | None, bytes_per_token: int, device: torch.device, *, context: int, sequences: int) -> int:
    """How many tokens' keys and values there is memory for: so many as are wanted, a share of what is free when nothing
    is said, and no more than every sequence ever needs. Raises LoadError where there is no room for one."""
    free = int(SHARE[device.type] * free_bytes(device))
    tokens = min(wanted or free // bytes_per_token, sequences * context)
    if tokens < 1:
        raise LoadError(f"there are {free} bytes for the keys and values of texts, and a token takes {bytes_per_token}")
    return tokens


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
