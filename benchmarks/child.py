"""A child process of the benchmark: started, spoken to, measured through /proc, and ended by its pid. Linux only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_START_S = 120.0
_POLL_S = 0.01
_STOP_S = 40.0
"""More than the 30 s that a server gives to requests in flight."""


class BenchmarkError(Exception):
    """A child did not do what is measured: no number is better than a wrong one."""


class Child:
    """`python -m arguments`, in a session of its own so that Ctrl-C comes to the benchmark alone; a context manager.

    stderr goes to a file in `folder`; stdin and stdout are pipes that carry JSON, one value a line.
    """

    def __init__(self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name = arguments[0]
        self.log = folder / f"{self.name}-{time.monotonic_ns()}.log"
        with self.log.open("w") as errors, self._known():
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=os.environ | (environment or {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    @contextmanager
    def _known(self) -> Iterator[None]:
        """SIGINT and SIGTERM wait: between a fork and its pid they would leave a child that nobody ends."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals come to the main thread alone
            return
        came: list[int] = []
        before = {
            number: signal.signal(number, lambda number, _: came.append(number))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if came:
            try:
                signal.raise_signal(came[0])
            except BaseException:
                self.__exit__()
                raise

    def wait(self, done: Callable[[], bool], most_s: float = _START_S) -> None:
        """Until `done()`. Raises BenchmarkError when the process ends or takes too long."""
        end = time.monotonic() + most_s
        while not done():
            if self._process.poll() is not None:
                raise self._ended()
            if time.monotonic() > end:
                raise BenchmarkError(f"{self.name} was not ready within {most_s:.0f} s")
            time.sleep(_POLL_S)

    def say(self, value: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """The next value that it prints. Raises BenchmarkError when it ends instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def cpu_s(self) -> float:
        """User and system seconds of the process tree so far, in steps of 10 ms."""
        return sum(sum(map(int, _fields(Path(f"/proc/{pid}/stat"))[11:13])) for pid in self._tree()) / _TICKS

    def peak_mib(self) -> float:
        """Peak resident memory of the process tree; what processes share counts once for each."""
        return self._status_mib("VmHWM")

    def resident_mib(self) -> float:
        """Resident memory now, likewise."""
        return self._status_mib("VmRSS")

    def _status_mib(self, field: str) -> float:
        lines = (line for pid in self._tree() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return sum(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024

    def _tree(self) -> list[int]:
        parents = {int(stat.parent.name): int(_fields(stat)[1]) for stat in Path("/proc").glob("[0-9]*/stat")}
        pids = [self._process.pid]
        for known in pids:
            pids += [pid for pid, parent in parents.items() if parent == known]
        return pids

    def _ended(self) -> BenchmarkError:
        return BenchmarkError(f"{self.name} ended with {self._process.wait()}:\n{self.log.read_text()[-2000:]}")


def _fields(stat: Path) -> list[str]:
    """proc_pid_stat(5) from its third field on; zeros for a process that has just ended."""
    try:
        return stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["0"] * 50
