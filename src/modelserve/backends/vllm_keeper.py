"""Keeps a vLLM server: starts it, and ends it with whatever it has started when it ends or modelserve does.

A program of its own, `python -I -S vllm_keeper.py DIRECTORY COMMAND…`, of the standard library alone. Its stdin is a
pipe whose other end only the server of modelserve has, and which reads end of file when that is gone, however it went.
vLLM starts an engine and workers, which outlive it when it is killed: orphans come to this process, which ends them.
Then it removes DIRECTORY, where the socket is, and exits with vLLM's status. One thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_GRACE_S = 5.0
"""For vLLM to end by itself. What was asked of it has been answered or given up before."""
_TRACKER_S = 2.0
"""For Python's resource tracker, which ends after the others and removes the shared memory that they left."""
_TRACKER = b"multiprocessing.resource_tracker"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main(argv: list[str]) -> int:
    directory, *command = argv
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        # Should this process be killed, which nothing of ours does, vLLM ends by itself. There are no threads here.
        preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
    )
    while process.poll() is None:
        ready, _, _ = select.select([0, woken], [], [])
        if 0 in ready and not os.read(0, 4096):
            break
        if woken in ready and signal.SIGTERM in os.read(woken, 4096):
            break
    _end(process)
    _end_what_is_left(process.pid)
    shutil.rmtree(directory, ignore_errors=True)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the process group has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    if process.poll() is None:
        process.kill()
        process.wait()


def _end_what_is_left(group: int) -> None:
    if sys.platform != "linux":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        return
    deadline = time.monotonic() + _TRACKER_S
    while left := list(_descendants(os.getpid())):
        for pid in left:
            if time.monotonic() > deadline or not _is_tracker(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def _descendants(pid: int) -> Iterator[int]:
    """Children and theirs, zombies too."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may have any characters; the parent is the second word after it.
            parents.setdefault(int(stat.read_bytes().rpartition(b")")[2].split()[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, ())
    yield from found[1:]


def _is_tracker(pid: int) -> bool:
    try:
        return _TRACKER in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
