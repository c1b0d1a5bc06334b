"""One of several server processes behind one port, as it sees itself; and the board that all of them share.

Knows no model. The supervisor (supervisor.py) starts it with MODELSERVE_WORKER_* variables and reads the board.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelserve.runtime.model import Models

log = logging.getLogger("modelserve")

_PREFIX = "MODELSERVE_WORKER_"
_BEAT_S = 0.5
EXIT_NOT_LIVE = 70
"""Exit status of a worker whose forward pass hangs or whose device is lost; the supervisor starts another."""


class Board:
    """A few bytes in a file, mapped by every process: per worker whether it is ready and when its loop last turned."""

    _ROW = struct.Struct("<?d")
    _COMPLETE = 0

    def __init__(self, path: Path, workers: int) -> None:
        size = 1 + workers * self._ROW.size
        if not path.exists():
            path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), size)
        self._workers = workers

    def write(self, index: int, *, ready: bool) -> None:
        """Also the heartbeat: the monotonic clock is one for all processes of a machine."""
        self._ROW.pack_into(self._bytes, 1 + index * self._ROW.size, ready, time.monotonic())

    def ready(self, index: int) -> bool:
        return bool(self._ROW.unpack_from(self._bytes, 1 + index * self._ROW.size)[0])

    def silent_s(self, index: int) -> float:
        """Seconds since the worker's event loop last turned."""
        return time.monotonic() - float(self._ROW.unpack_from(self._bytes, 1 + index * self._ROW.size)[1])

    def complete(self) -> bool:
        """All workers have been ready at once. From then on one that restarts does not make the server unready:
        it accepts nothing until it can answer."""
        if not self._bytes[self._COMPLETE] and all(self.ready(i) for i in range(self._workers)):
            self._bytes[self._COMPLETE] = 1
        return bool(self._bytes[self._COMPLETE])


@dataclass(frozen=True, slots=True)
class Worker:
    """This process, when it is a worker."""

    index: int
    grpc_port: int
    accepts_at_once: bool
    """Accept connections while loading, to tell the progress; the others wait until they can answer."""
    http_fd: int
    parent_fd: int
    """Reads end of file when the supervisor is gone."""
    board: Board

    @staticmethod
    def is_one() -> bool:
        return _PREFIX + "INDEX" in os.environ

    @classmethod
    def from_environment(cls) -> Worker | None:
        if not cls.is_one():
            return None
        value = {name: os.environ[_PREFIX + name] for name in FIELDS}
        return cls(
            index=int(value["INDEX"]),
            grpc_port=int(value["GRPC_PORT"]),
            accepts_at_once=value["ACCEPTS_AT_ONCE"] == "1",
            http_fd=int(value["HTTP_FD"]),
            parent_fd=int(value["PARENT_FD"]),
            board=Board(Path(value["BOARD"]), int(value["COUNT"])),
        )

    def listener(self) -> socket.socket:
        return socket.socket(fileno=self.http_fd)

    def set_ready(self) -> None:
        self.board.write(self.index, ready=True)

    async def attend(self, models: Models, stop: asyncio.Event) -> None:
        """Beat on the board; end with the supervisor; end at once when the model does not live any more."""
        models.others_ready = self.board.complete
        asyncio.get_running_loop().add_reader(self.parent_fd, self._orphaned, stop)
        while True:
            self.board.write(self.index, ready=all(model.ready for model in models.index()))
            if not models.live():
                log.critical("worker %d does not live any more and ends; another is started", self.index)
                logging.shutdown()
                os._exit(EXIT_NOT_LIVE)
            await asyncio.sleep(_BEAT_S)

    def _orphaned(self, stop: asyncio.Event) -> None:
        asyncio.get_running_loop().remove_reader(self.parent_fd)
        log.warning("worker %d: the supervisor is gone; draining", self.index)
        stop.set()


FIELDS = ("INDEX", "COUNT", "GRPC_PORT", "ACCEPTS_AT_ONCE", "HTTP_FD", "PARENT_FD", "BOARD")


def variables(**fields: object) -> dict[str, str]:
    """The environment that makes a process a worker."""
    return {_PREFIX + name: str(fields[name]) for name in FIELDS}
