"""One `modelserve serve` process of a run: its start, its output, its end.

It ends with this process, by a pipe (modelserve/parent.py), and whatever it has started is found by its environment.
Knows no store and decides nothing. Two threads of its own: one reads the output, one waits for the end.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable

from modelserve import environment, flags
from modelserve.deploy import identity, lock, notes
from modelserve.deploy.log_file import LogFile
from modelserve.deploy.plan import Plan
from modelserve.errors import TargetError

log = logging.getLogger("modelserve.supervise")

_NOT_THEIRS = ("MODELSERVE_STORE_URL", "MODELSERVE_SECRET_KEY", lock.VARIABLE)
"""A model's own code needs neither the team's database nor the key of its secrets."""
_BLOCK = 2**16
_LAST_LINES = 20
_FAILED = "modelserve: error: "
_LAST_OUTPUT_S = 2.0
"""For output that was written before the end; a child that still has the pipe open may keep it for ever."""
_KILL_S = 5.0


class ServerProcess:
    """A started server."""

    def __init__(self, plan: Plan, files: notes.Files, output: LogFile) -> None:
        """Raises TargetError when this machine has no room for another process."""
        self.oom_killed = False
        self.killed_because = ""
        self._files = files
        self._output = output
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        theirs, self._ours = os.pipe()
        try:
            self._process = subprocess.Popen(
                # -P: what lies in the working directory is not ours to import, such as somebody's logging.py.
                [sys.executable, "-P", "-m", "modelserve", "serve", *plan.args],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=variables(plan.variables, files) | {environment.PARENT_FD: str(theirs)},
                pass_fds=(theirs,),
                start_new_session=True,  # a signal to the supervisor's group is not the server's
            )
        except OSError as error:
            os.close(self._ours)
            raise TargetError(f"the server could not be started: {error}") from error
        finally:
            os.close(theirs)
        self._reading = threading.Thread(target=self._read, name="output", daemon=True)
        self._reading.start()

    def on_end(self, tell: Callable[[], None]) -> None:
        """tell is called by a thread, once, when it has ended, and all that it started, and its output was read."""
        threading.Thread(target=self._wait, args=(tell,), name="server", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    def terminate(self) -> None:
        """Ask it to drain."""
        self._process.terminate()

    def kill(self, because: str) -> None:
        self.killed_because = because
        self._process.kill()

    @property
    def ports(self) -> notes.Ports | None:
        """None until it has told them."""
        ports = notes.read(self._files.ports, notes.Ports)
        return ports if ports is not None and ports.pid == self.pid else None

    @property
    def said(self) -> str:
        """Why it cannot serve, in its own words; "" where it has not said so."""
        own = [line for line in self._last if line.startswith(_FAILED)]
        return own[-1].removeprefix(_FAILED) if own and self._process.returncode in (1, 2) else ""

    @property
    def how(self) -> str:
        """How it ended, as the end of a sentence."""
        code = self._process.returncode
        if self.killed_because:
            return f"was killed because {self.killed_because}"
        if self.oom_killed:
            return "was killed because its memory reached the limit of its resources"
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit status {code}"

    def last_lines(self, count: int) -> list[str]:
        return list(self._last)[-count:]

    def _read(self) -> None:
        """Each line is on disk before the next one is read; what the disk does not take is not waited for."""
        stream = self._process.stdout
        assert stream is not None
        rest = b""
        with stream:
            while block := os.read(stream.fileno(), _BLOCK):
                rest += block
                whole = rest.rfind(b"\n") + 1 or (len(rest) if len(rest) > _BLOCK else 0)
                if whole:
                    self._keep(rest[:whole])
                    rest = rest[whole:]
        if rest:
            self._keep(rest)

    def _keep(self, lines: bytes) -> None:
        lines = lines if lines.endswith(b"\n") else lines + b"\n"
        self._output.write(lines)
        self._last.extend(line for line in lines.decode(errors="replace").splitlines()[-_LAST_LINES:] if line.strip())

    def _wait(self, tell: Callable[[], None]) -> None:
        self._process.wait()
        os.close(self._ours)
        left = identity.kill_marked(notes.MARK, str(self._files.ports), _KILL_S)
        if left:
            log.warning("processes that the server had started outlived it and were killed: %d", left)
        self._reading.join(_LAST_OUTPUT_S)
        tell()


def variables(given: dict[str, str], files: notes.Files) -> dict[str, str]:
    """For a server that is told its parameters by its command line alone."""
    inherited = flags.without_parameters(os.environ)
    for name in _NOT_THEIRS:
        inherited.pop(name, None)
    # What a model prints is in the log when it is printed.
    return inherited | {"PYTHONUNBUFFERED": "1"} | given | {notes.MARK: str(files.ports)}
