"""The server's log on disk: whole lines, in files that are changed when they are full, the oldest ones removed.

`server.log` is written; full ones are `server.log.1`, `server.log.2`, …, numbered on for ever, so that a reader in
another process (log_lines.py) can tell which comes next. Writing never raises: what the disk does not take is counted,
and said when it takes something again. Knows no server. Any thread may write.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

NAME = "server.log"
MAX_BYTES = 10 * 2**20
"""Some hundred thousand lines: an editor opens it, and a day of a busy server fits."""
FILES = 5
"""With the one that is written: at most 50 MiB a run."""


def numbered(directory: Path) -> dict[int, Path]:
    """The full files by their numbers, oldest first."""
    found = {int(number): path for path in directory.glob(f"{NAME}.*") if (number := path.suffix[1:]).isdecimal()}
    return dict(sorted(found.items()))


class LogFile:
    """The log that is written, open for as long as the supervisor lives."""

    def __init__(self, directory: Path, max_bytes: int = MAX_BYTES, files: int = FILES) -> None:
        self._directory = directory
        self._path = directory / NAME
        self._max_bytes = max_bytes
        self._files = files
        self._lock = threading.Lock()
        self._fd = -1
        self._size = 0
        self._lost = 0
        self._torn = False
        """The disk took the first part of a line only."""

    def write(self, lines: bytes) -> None:
        """Whole lines, with their line ends."""
        with self._lock:
            left = lines
            try:
                if self._lost:
                    said = b"modelserve: %d lines of this log were lost: no room\n" % self._lost
                    said = b"\n" + said if self._torn else said
                    while said:
                        said = self._put(said)
                    self._lost = 0
                while left:
                    left = self._put(left)
            except OSError:
                self._lost += left.count(b"\n")

    def _put(self, lines: bytes) -> bytes:
        """Write what the disk takes of it; returns the rest."""
        if self._fd < 0 or (self._size >= self._max_bytes and not self._torn):
            self._open()
        written = os.write(self._fd, lines)
        self._size += written
        self._torn = lines[written - 1 : written] != b"\n"
        return lines[written:]

    def _open(self) -> None:
        """The file to write; a full one gets its number first."""
        self.close()
        if self._path.exists() and self._path.stat().st_size >= self._max_bytes:
            full = numbered(self._directory)
            self._path.rename(f"{self._path}.{max(full, default=0) + 1}")
            for path in list(full.values())[: max(0, len(full) + 2 - self._files)]:
                path.unlink(missing_ok=True)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
