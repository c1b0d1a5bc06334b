"""Which process is meant: a pid with the time of its start, since pids are given again; or a mark in its environment.

Knows no run. Signals go through psutil, which looks once more whether the process is still the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import psutil

_POLL_S = 0.02


class Identity(msgspec.Struct, frozen=True):
    """One process of this machine, for as long as the machine is up."""

    pid: int
    started: float
    """In ticks since the machine started where /proc tells them: they do not move when somebody sets the clock."""

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Raises psutil.NoSuchProcess."""
        return cls(pid, _started(psutil.Process(pid)))

    @classmethod
    def own(cls) -> Identity:
        return cls.of(os.getpid())

    def process(self) -> psutil.Process | None:
        """The process, unless it has ended; one whose parent has not fetched its exit status has ended, too."""
        try:
            process = psutil.Process(self.pid)
            if _started(process) == self.started and process.status() != psutil.STATUS_ZOMBIE:
                return process
        except psutil.NoSuchProcess:
            pass
        return None

    def signal(self, number: int) -> bool:
        """Whether it was there to be signalled. Raises psutil.AccessDenied for another user's."""
        process = self.process()
        try:
            if process is not None:
                process.send_signal(number)
        except psutil.NoSuchProcess:
            return False
        return process is not None


def _started(process: psutil.Process) -> float:
    try:
        said = Path(f"/proc/{process.pid}/stat").read_text()
        return float(said.rpartition(")")[2].split()[19])
    except (ProcessLookupError, FileNotFoundError) as error:
        if Path("/proc/self/stat").exists():
            raise psutil.NoSuchProcess(process.pid) from error
        return float(process.create_time())


def marked(variable: str, value: str) -> list[psutil.Process]:
    """Every living process of this user that was started with this variable: what a server has started as well, in
    whatever session and with whatever parent."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it has just ended, or is another user's
    return found


def kill_marked(variable: str, value: str, timeout_s: float) -> int:
    """Kill them all, and what they start meanwhile; how many there were. They may outlast the time-out where the kernel
    keeps them (a disk or a device that does not answer)."""
    deadline = time.monotonic() + timeout_s
    killed: set[int] = set()
    while left := marked(variable, value):
        kill(left)
        killed |= {process.pid for process in left}
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL_S)
    return len(killed)


def kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
