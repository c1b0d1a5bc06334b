"""The small files of a run's directory, as data: each is replaced as a whole, so that a reader sees the old or the new.

Knows no process and no store.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from modelserve import environment
from modelserve.deploy.home import home, run_directory
from modelserve.deploy.identity import Identity

MARK = environment.PORTS_FILE
"""The variable, set to the run's ports file, tells which processes are a run's: servers hand it on to their workers."""


def here() -> dict[str, str]:
    """Facts of a run's status: where its processes and files are."""
    return {"host": socket.gethostname(), "home": str(home())}


class Files:
    """Where each file of a run is."""

    def __init__(self, run_id: str) -> None:
        self.directory = run_directory(run_id)
        self.lock = self.directory / "lock"
        self.supervisor = self.directory / "supervisor.json"
        self.ports = self.directory / "ports.json"
        self.live = self.directory / "live.json"
        self.supervisor_log = self.directory / "supervisor.log"
        self.cgroup = f"modelserve-{run_id}"
        """Name of the cgroup that bounds the server's memory."""


class Supervisor(msgspec.Struct, frozen=True, kw_only=True):
    """Who keeps the run; and, once that has ended, as what: the store may have been out of reach."""

    identity: Identity
    cgroup: str = ""
    """Directory of the cgroup that bounds the server's memory; "" for none."""
    state: Literal["", "STOPPED", "ERROR"] = ""
    """At its end."""
    message: str = ""


class Ports(msgspec.Struct, frozen=True):
    """As the server writes it (server.tell_ports)."""

    http_port: int
    grpc_port: int | None
    pid: int


class Live(msgspec.Struct, kw_only=True):
    """What the supervisor saw last. usage as in target.Usage, progress as in target.Progress."""

    written: float = 0.0
    """time.time(); an old note is nobody's present."""
    stage: str = ""
    progress: float = 0.0
    cpu: float | None = None
    memory_bytes: int | None = None
    requests_per_s: float | None = None


_FRESH_S = 30.0
_Note = TypeVar("_Note", bound=msgspec.Struct)


def write(path: Path, note: msgspec.Struct) -> None:
    """Raises OSError when the disk is full or the directory gone."""
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(note))
    part.replace(path)


def read(path: Path, kind: type[_Note]) -> _Note | None:
    """None when it was never written, or not by this version."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def live(path: Path) -> Live:
    """What is known now; nothing when the note is old."""
    note = read(path, Live)
    return note if note is not None and abs(time.time() - note.written) < _FRESH_S else Live()
