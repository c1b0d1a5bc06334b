"""vLLM's server as a child of this process: its start, its log, its end.

vllm_keeper.py stands between: vLLM ends with this process, however that goes, and with whatever it has started.
Knows no HTTP and no model. Two threads of its own: one reads the output, one waits for the end.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from modelserve.errors import LoadError

log = logging.getLogger("modelserve.vllm")

KEEPER = Path(__file__).with_name("vllm_keeper.py")
_LONGEST_PATH = 100
"""Of a Unix socket; the system takes 107 bytes."""
_KEPT = 400
"""Lines, to find the reason in: a failed start says it once in each of three tracebacks."""
_SHOWN = 20
_LAST_OUTPUT_S = 2.0

_LINE = re.compile(
    r"(?P<who>\([^)]*\) )?(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d (?P<rest>.*)"
)
_REASON = re.compile(r"(?:^|[\s\]])(?:[\w.]*(?:Error|Exception)|[\w.]+: error): (?P<what>\S.*)")
_HINTS_ELSEWHERE = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "root cause",
    "stack trace",
)
"""What the outer processes say of the inner ones."""
_BREAKS = re.compile(r"[\r\n]+")


class VllmServer:
    """A started vLLM server."""

    def __init__(self, command: Callable[[Path], list[str]], environ: Mapping[str, str]) -> None:
        """command: from the path of the socket that it listens on. Raises LoadError."""
        directory = tempfile.mkdtemp(prefix="modelserve-vllm-")
        if len(directory) > _LONGEST_PATH - len("/http"):
            os.rmdir(directory)
            raise LoadError(f"TMPDIR is too long a path for a socket: {directory}; set it to a shorter one")
        self.socket = Path(directory) / "http"
        self.on_line: Callable[[str], None] = lambda line: None
        """Told each line, by a thread."""
        self.on_end: Callable[[], None] = lambda: None
        """Called by a thread, once, when it has ended."""
        self._last: deque[str] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(KEEPER), directory, *command(self.socket)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environ,
                start_new_session=True,  # Ctrl-C is for the server, which ends vLLM when it has drained
            )
        except OSError as error:
            os.rmdir(directory)
            raise LoadError(f"vLLM could not be started: {error}") from error
        self._reading = threading.Thread(target=self._read, name="modelserve-vllm-log", daemon=True)
        self._waiting = threading.Thread(target=self._wait, name="modelserve-vllm-end", daemon=True)
        self._reading.start()

    def watch(self) -> None:
        """Begin to wait for its end; `on_line` and `on_end` are set."""
        self._waiting.start()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def how(self) -> str:
        """How it ended, as the end of a sentence that begins with vLLM."""
        code = self._process.poll()
        if code is None:
            return "is running"
        signal = -code if code < 0 else code - 128  # the keeper's own, or vLLM's
        return f"was killed by signal {signal}" if signal > 0 else f"ended with exit status {code}"

    @property
    def reason(self) -> str:
        """Why, in its own words, as far as it has any."""
        if self.ended:
            self._reading.join(_LAST_OUTPUT_S)
        found = [match["what"] for line in list(self._last) if (match := _REASON.search(line))]
        roots = [what for what in found if not any(hint in what for hint in _HINTS_ELSEWHERE)]
        return (roots or found or list(self._last)[-1:] or ["it said nothing"])[-1]

    def last_lines(self) -> str:
        return "\n".join(list(self._last)[-_SHOWN:])

    def stop(self) -> None:
        """Ask it to end, and have it ended if it does not. Returns at once."""
        with self._lock, contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()

    def join(self, timeout_s: float) -> bool:
        """Wait for its end; false when it takes longer."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        rest, text = "", codecs.getincrementaldecoder("utf-8")(errors="replace")
        with stream:
            while block := stream.read1(65536):  # type: ignore[attr-defined]  # a BufferedReader
                *lines, rest = _BREAKS.split(rest + text.decode(block))
                for line in lines:
                    self._take(line)
        self._take(rest)

    def _take(self, line: str) -> None:
        """A progress bar is a line each time that it is drawn."""
        line = line.rstrip()
        if not line:
            return
        self._last.append(line)
        match = _LINE.match(line)
        level = logging.getLevelNamesMapping()[match["level"]] if match else logging.INFO
        log.log(level, "%s", (match["who"] or "") + match["rest"] if match else line)
        self.on_line(line)

    def _wait(self) -> None:
        self._process.wait()
        self._reading.join(_LAST_OUTPUT_S)
        self.stop()
        shutil.rmtree(self.socket.parent, ignore_errors=True)  # the keeper's work, unless it was killed
        self.on_end()
