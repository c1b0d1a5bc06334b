"""The fake's sockets: HTTP/1.1 over TCP, a thread per connection, and every way in which a server can be out of order.

Knows no objects: `answer` says what to send. All threads are daemons and end when the server is closed.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.deploy.kubernetes.fake import forward, status
from tests.deploy.kubernetes.fake.api import JSON, TEXT, Answer, Forward, Reply, Stream
from tests.deploy.kubernetes.fake.logs import Line
from tests.deploy.kubernetes.fake.paths import Asked
from tests.deploy.kubernetes.fake.status import Refused


class Connection(threading.Thread):
    """One client's connection. `watching` while a watch or a log that is followed goes on."""

    def __init__(self, server: Server, link: socket.socket) -> None:
        super().__init__(name="fake API connection", daemon=True)
        self.link, self._server = link, server
        self.watching = False
        self.dead = False

    def run(self) -> None:
        try:
            _Http(self.link, self._server, self)
        except (OSError, ValueError):
            return  # cut by either side, in the midst of an answer
        finally:
            self.dead = True
            self.link.close()
            self._server.forget(self)

    def alive(self) -> bool:
        """Whether the client is still there. Seen when it has closed, which is when its side has an end to read."""
        if self.dead:
            return False
        try:
            return self.link.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def cut(self, *, reset: bool) -> None:
        """reset: without a farewell, as when a machine in between forgets the connection."""
        self.dead = True
        with contextlib.suppress(OSError):
            if reset:
                self.link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.link.shutdown(socket.SHUT_RDWR)


class Server:
    """Listens on loopback from the start.

    answer: of a request, given the connection that it came on. backend: where a pod's port really is.
    """

    def __init__(
        self, answer: Callable[[Asked, Line], Answer], backend: Callable[[Any, int], forward.Backend | None]
    ) -> None:
        self.answer, self.backend = answer, backend
        self.cut_after: int | None = None
        """Every stream is cut after so many lines."""
        self._released = threading.Event()
        self._released.set()
        self._closed = False
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.listen()

    def listen(self) -> None:
        """Again on the same port, after `vanish`."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._accepting = threading.Thread(target=self._accept, args=[listener], name="fake API", daemon=True)
        self._accepting.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return  # closed
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, link)
            with self._lock:
                if self._listener is not listener:
                    link.close()
                    return
                self._connections.add(connection)
            connection.start()

    def forget(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)

    def cut(self, *, watches: bool, reset: bool) -> int:
        """All connections, or those with a stream. How many."""
        with self._lock:
            found = [one for one in self._connections if one.watching or not watches]
        for one in found:
            one.cut(reset=reset)
        return len(found)

    @property
    def streams(self) -> int:
        with self._lock:
            return sum(one.watching for one in self._connections)

    def vanish(self) -> None:
        listener = self._listener
        with self._lock:
            self._listener = None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            self._accepting.join(5)
        self.cut(watches=False, reset=False)

    def hang(self, *, on: bool) -> None:
        """Accepts, reads, and answers only when it is told to go on."""
        if on:
            self._released.clear()
        else:
            self._released.set()

    def wait(self) -> bool:
        """While it hangs. Whether to go on."""
        self._released.wait()
        return not self._closed

    def close(self) -> None:
        self._closed = True
        self.vanish()
        self._released.set()
        with self._lock:
            left = list(self._connections)
        for one in left:
            one.join(5)


class _Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, link: socket.socket, server: Server, connection: Connection) -> None:
        self._of, self._connection = server, connection
        super().__init__(link, ("127.0.0.1", 0), server)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it: the fake keeps a list of requests."""

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def _asked(self) -> Asked:
        split = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        return Asked(
            self.command, split.path, dict(parse_qsl(split.query, keep_blank_values=True)),
            self.headers.get("Content-Type", "").partition(";")[0].strip(), self.rfile.read(length),
            self.headers.get("User-Agent", ""), self.headers.get("Authorization", ""),
            {name.lower(): value for name, value in self.headers.items()},
        )  # fmt: skip

    def _serve(self) -> None:
        asked = self._asked()
        if not self._of.wait():
            self.close_connection = True
            return
        try:
            found = self._of.answer(asked, self._connection)
        except Refused as refused:
            found = _refusal(refused)
        if isinstance(found, Reply):
            self._reply(found)
        elif isinstance(found, Stream):
            self._stream(found)
        else:
            self._forward(asked, found)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _reply(self, found: Reply) -> None:
        text = found.body if isinstance(found.body, str) else json.dumps(found.body) + "\n" if found.body else ""
        body = text.encode()
        self.send_response(found.code)
        for name, value in found.headers.items():
            self.send_header(name, value)
        if found.content:
            self.send_header("Content-Type", found.content)
        if found.code != 204:
            self.send_header("Content-Length", str(len(body)))
        buffer: list[bytes] = self._headers_buffer  # type: ignore[attr-defined]
        buffer += [b"\r\n", body]
        self.flush_headers()

    def _stream(self, found: Stream) -> None:
        self.send_response(200)
        self.send_header("Content-Type", found.content)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._connection.watching = True
        left = self._of.cut_after
        for line in found.lines:
            if not line:
                continue
            if left is not None:
                if not left:
                    self._connection.cut(reset=False)
                    self.close_connection = True
                    return
                left -= 1
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        if self._connection.dead:
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")
        self._connection.watching = False

    def _forward(self, asked: Asked, found: Forward) -> None:
        self.close_connection = True
        if asked.headers.get("upgrade", "").lower() != "websocket":
            self._reply(_refusal(status.bad_request("Upgrade request required")))
            return
        self._connection.watching = True
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        name = f"{found.pod['metadata']['namespace']}/{found.pod['metadata']['name']}"

        def backend(port: int) -> forward.Backend | None:
            return self._of.backend(found.pod, port)

        forward.serve(self.connection, self.path, headers, found.ports, backend, name)


def _refusal(refused: Refused) -> Reply:
    headers = {"Retry-After": refused.retry_after} if refused.retry_after else {}
    if refused.body is None:
        return Reply(refused.code, refused.text, TEXT, headers)
    return Reply(refused.code, refused.body, JSON, headers)
