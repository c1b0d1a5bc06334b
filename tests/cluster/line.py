"""A line to an API server that can be cut: a TCP forwarder on loopback, and the kubeconfig that leads through it.

Knows no TLS: what goes through is the cluster's own, whose name the kubeconfig keeps. One thread accepts, and two copy
for each connection.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests.cluster import access
from tests.cluster.cluster import Cluster

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER by which a close is a reset."""


class Line:
    """To host:port. `count` is how many connections there were."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.count = 0
        self.port = 0
        self._listen()

    def cut(self) -> None:
        """Every connection, at once and in the midst."""
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    one.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Cut, and nobody listens."""
        self.close()
        try:
            yield
        finally:
            self._listen()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def _listen(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self.port))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                near, _ = server.accept()
            except OSError:  # closed
                return
            self.count += 1
            far = socket.create_connection(self._to)
            with self._lock:
                self._open |= {near, far}
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source, target}
        source.close()  # each direction closes what it has read from


@contextlib.contextmanager
def line(cluster: Cluster, directory: Path) -> Iterator[tuple[Line, Path]]:
    """A line to the cluster, and a kubeconfig through it, which is written into the directory."""
    found, user = access.own(cluster)
    server = urlsplit(found["server"])
    assert server.hostname
    forwarder = Line(server.hostname, server.port or 443)
    try:
        found |= {"server": f"https://127.0.0.1:{forwarder.port}{server.path}"}
        if server.hostname != "127.0.0.1":
            found.setdefault("tls-server-name", server.hostname)
        yield forwarder, access.write(directory, found, user)
    finally:
        forwarder.close()
