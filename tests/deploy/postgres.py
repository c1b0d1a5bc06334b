"""A real PostgreSQL of Debian's package for tests: its own data, on a unix socket, ended by its pid.

PostgreSQL refuses to run as root, so for root it runs as the user that the package makes.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

USER = "modelserve"
PASSWORD = "pa:ss@wörd/ hunter2"
"""With what a URL must escape, so that the tests' URLs are as bad as they come."""


class Postgres:
    """A server, which can be stopped and started again. socket: the directory of its socket. log: what it writes."""

    def __init__(self, socket: Path, log: Path, command: list[str | Path], identity: dict[str, Any]) -> None:
        self.socket = socket
        self.log = log
        self._command = command
        self._identity = identity
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 60) -> None:
        with self.log.open("ab") as output:
            self._process = process = subprocess.Popen(
                self._command, **self._identity, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError), self.connect():
                return
            time.sleep(0.05)
        raise AssertionError(f"PostgreSQL did not start within {timeout_s} s:\n{self.log.read_text()}")

    def stop(self) -> None:
        """Its clients are cut off. Nothing happens where it does not run."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
        self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It answers nobody, and cuts nobody off."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        server.suspend()  # first: it would start others
        stopped = [server, *server.children(recursive=True)]
        for process in stopped:
            process.suspend()
        try:
            yield
        finally:
            for process in reversed(stopped):
                process.resume()

    def connect(self, database: str = "postgres", **settings: Any) -> psycopg.Connection[Any]:
        where = {"host": str(self.socket), "dbname": database, "user": USER, "password": PASSWORD}
        return psycopg.connect(**(where | settings), autocommit=True)

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:pa%3Ass%40w%C3%B6rd%2F%20hunter2@/{database}?host={self.socket}"

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database, which is dropped again."""
        name = f"t{uuid.uuid4().hex}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            with self.connect() as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def programs() -> Path | None:
    """The newest version's directory with initdb and postgres; Debian's are not on PATH."""
    places = [*Path("/usr/lib/postgresql").glob("*/bin")]
    places.sort(key=lambda place: float(place.parent.name), reverse=True)
    places += [Path(found).parent for found in [shutil.which("initdb")] if found]
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


@contextlib.contextmanager
def server() -> Iterator[Postgres]:
    """Skips where PostgreSQL is not installed, and fails there in CI."""
    binaries = programs()
    if binaries is None:
        missing = "PostgreSQL is not installed; install it with: apt-get install postgresql"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    root = Path(tempfile.mkdtemp(prefix="pg-"))  # not pytest's, which other users may not enter; short for a socket
    identity: dict[str, Any] = {"cwd": "/"}
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        identity |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    try:
        data, log, password = root / "data", root / "log", root / "password"
        password.write_text(PASSWORD, encoding="utf-8")
        log.touch()
        for path in (root, log, password):
            shutil.chown(path, identity.get("user"), identity.get("group")) if "user" in identity else None
        options = ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(
            [binaries / "initdb", "-D", data, "-U", USER, "--pwfile", password, *options],
            **identity,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        # fsync is for power cuts, and no test is one.
        settings = {"listen_addresses": "", "unix_socket_directories": root, "fsync": "off", "shared_buffers": "16MB"}
        command = [binaries / "postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())]
        running = Postgres(root, log, command, identity)
        try:
            running.start()
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(root)
