"""A bound on the memory of a process and all that it starts: a cgroup of its own, where one can be made.

Whether it can is found out by trying: on cgroup v2 in the nearest cgroup above that hands memory on and may be written
(a user's systemd hands its slice to the user), on v1 below our own. Knows no run. Raises OSError only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc/self")


class Place(NamedTuple):
    """A cgroup in which another may be made, and how its files are called there."""

    directory: Path
    limit: str
    also: tuple[tuple[str, str | None], ...]
    """Further files and what is written to them, None for the limit: memory that goes to swap is memory, too. They are
    not there on every machine."""
    events: str
    """Has a line `oom_kill N`."""


def enclose(pid: int, limit_bytes: int, name: str, places: list[Place] | None = None) -> Cgroup:
    """The process in a cgroup of this name. Raises OSError with the reason when there is no place for one."""
    reason = OSError("this machine has no cgroup for memory")
    for place in _places() if places is None else places:
        directory = place.directory / name
        try:
            directory.mkdir(exist_ok=True)
            (directory / place.limit).write_text(str(limit_bytes))
            for file, value in place.also:
                with contextlib.suppress(FileNotFoundError):
                    (directory / file).write_text(str(limit_bytes) if value is None else value)
            (directory / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            reason = error
            remove(directory)
            continue
        return Cgroup(directory, place.events)
    raise reason


class Cgroup:
    """One that was made."""

    def __init__(self, directory: Path, events: str) -> None:
        self.directory = directory
        self._events = events

    def oom_kills(self) -> int:
        """Processes in it that the kernel has ended because it was full; 0 when it is not there any more."""
        try:
            lines = (self.directory / self._events).read_text().splitlines()
        except FileNotFoundError:
            return 0
        counts = dict(line.split() for line in lines)
        return int(counts.get("oom_kill", 0))


def remove(directory: Path) -> bool:
    """Whether it is gone; it stays while a process is in it."""
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _places() -> Iterator[Place]:
    """Nearest first."""
    mounts = [line.split() for line in (_PROC / "mountinfo").read_text().splitlines()]
    for line in (_PROC / "cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        for mount in mounts:
            kind, options, root, point = mount[mount.index("-") + 1], mount[-1], mount[3], Path(mount[4])
            if not path.startswith(root.rstrip("/")):
                continue  # a part of the tree that is mounted elsewhere
            own = point / path.removeprefix(root.rstrip("/")).lstrip("/")
            if number == "0" and kind == "cgroup2":
                yield from _v2(own, point)
            elif "memory" in controllers.split(",") and kind == "cgroup" and "memory" in options.split(","):
                swap = ("memory.memsw.limit_in_bytes", None)
                yield Place(own, "memory.limit_in_bytes", (swap,), "memory.oom_control")


def _v2(own: Path, root: Path) -> Iterator[Place]:
    """No cgroup but the root has both processes and children with a limit, so ours is a sister of our own or further
    up."""
    for directory in (own, *own.parents):
        handed_on = directory / "cgroup.subtree_control"
        if os.access(handed_on, os.R_OK) and "memory" in handed_on.read_text().split():
            yield Place(directory, "memory.max", (("memory.swap.max", "0"),), "memory.events")
        if directory == root:
            return
