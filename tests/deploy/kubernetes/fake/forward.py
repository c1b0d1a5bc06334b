"""Port-forward over a WebSocket, as the API server speaks it with v4.channel.k8s.io. Not recorded: from its sources.

Each port has two channels, 2i for data and 2i+1 for its error; the first message of each is the port, little endian.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Callable

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Request, TextMessage
from wsproto.utilities import LocalProtocolError

PROTOCOL = "v4.channel.k8s.io"
Backend = tuple[str, int]


def serve(
    connection: socket.socket,
    path: str,
    headers: list[tuple[bytes, bytes]],
    ports: list[int],
    backend: Callable[[int], Backend | None],
    pod: str,
) -> None:
    """Until either side closes. backend: where a port of the pod really is, None where nothing listens."""
    web = WSConnection(ConnectionType.SERVER)
    web.initiate_upgrade_connection(headers, path)
    asked = next(event for event in web.events() if isinstance(event, Request))
    if PROTOCOL not in asked.subprotocols:
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return
    connection.sendall(web.send(AcceptConnection(subprotocol=PROTOCOL)))
    tunnels = _Tunnels(connection, web, pod)
    try:
        for index, port in enumerate(ports):
            tunnels.open(index, port, backend(port))
        tunnels.run()
    except (OSError, LocalProtocolError):
        return  # the other side has gone, or the test has cut it
    finally:
        tunnels.close()


class _Tunnels:
    def __init__(self, connection: socket.socket, web: WSConnection, pod: str) -> None:
        self._connection, self._web, self._pod = connection, web, pod
        self._sockets: dict[int, socket.socket] = {}
        self._pending = b""

    def open(self, index: int, port: int, backend: Backend | None) -> None:
        for channel in (2 * index, 2 * index + 1):
            self._send(channel, struct.pack("<H", port))
        try:
            if backend is None:
                raise ConnectionRefusedError
            self._sockets[2 * index] = socket.create_connection(backend, timeout=5)
            self._sockets[2 * index].settimeout(None)
        except OSError:
            words = (
                f"error forwarding port {port} to pod {self._pod}, uid : failed to execute portforward in network "
                f'namespace "host": failed to connect to localhost:{port} inside namespace: '
                f"dial tcp4 127.0.0.1:{port}: connect: connection refused"
            )
            self._send(2 * index + 1, words.encode())

    def run(self) -> None:
        while self._sockets:
            readable, _, _ = select.select([self._connection, *self._sockets.values()], [], [], 60)
            for channel, one in list(self._sockets.items()):
                if one in readable:
                    try:
                        data = one.recv(65536)
                    except OSError:
                        data = b""
                    if data:
                        self._send(channel, data)
                    else:
                        self._sockets.pop(channel).close()
            if self._connection in readable and not self._receive():
                return
        self._connection.sendall(self._web.send(CloseConnection(code=1000)))

    def _receive(self) -> bool:
        data = self._connection.recv(65536)
        if not data:
            return False
        self._web.receive_data(data)
        return all(self._event(event) for event in list(self._web.events()))

    def _event(self, event: Event) -> bool:
        """Whether the connection goes on."""
        if isinstance(event, CloseConnection):
            self._connection.sendall(self._web.send(event.response()))
            return False
        if isinstance(event, Ping):
            self._connection.sendall(self._web.send(event.response()))
        elif isinstance(event, (BytesMessage, TextMessage)):
            self._message(event)
        return True

    def _message(self, event: BytesMessage | TextMessage) -> None:
        data = bytes(event.data) if isinstance(event, BytesMessage) else str(event.data).encode()
        self._pending += data
        if not event.message_finished:
            return
        whole, self._pending = self._pending, b""
        if whole and (there := self._sockets.get(whole[0])) is not None:
            there.sendall(whole[1:])

    def _send(self, channel: int, data: bytes) -> None:
        self._connection.sendall(self._web.send(BytesMessage(data=bytes([channel]) + data)))

    def close(self) -> None:
        for one in self._sockets.values():
            with contextlib.suppress(OSError):
                one.close()
