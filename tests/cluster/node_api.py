"""What an API server asks of a node: logs of pods, and ports of theirs, forwarded. An HTTPS server on loopback.

The kubelet's API has no specification; the paths are those that kube-apiserver asks for, and the channels of a
forwarded port those of v4.channel.k8s.io, which kubelets speak over WebSocket:
https://github.com/kubernetes/kubernetes/blob/v1.20.2/pkg/kubelet/cri/streaming/portforward/websocket.go
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request

from tests.cluster.process_pod import ProcessPod
from tests.deploy.kubernetes.certificates import Authority

_CHANNELS = "v4.channel.k8s.io"
_DATA, _ERROR = 0, 1
_LOOK_S = 0.1
_Query = Mapping[str, list[str]]


class NodeApi:
    """pod: by its namespace and name, None where there is none here."""

    def __init__(self, authority: Authority, pod: Callable[[tuple[str, str]], ProcessPod | None]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(pod))
        self._server.daemon_threads = True
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*authority.server("kubelet"))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_port

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(of: Callable[[tuple[str, str]], ProcessPod | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            _, what, namespace, name, *_ = urlsplit(self.path).path.split("/")
            pod = of((namespace, name))
            if pod is None or what not in ("containerLogs", "portForward"):
                self.send_error(404, f"no pod {name} here")
            elif what == "containerLogs":
                _log(self, pod, query)
            else:
                self.close_connection = True
                port = int(query["port"][0])
                _forward(self, port, pod.port(port))

        do_POST = do_GET

    return Handler


def _log(handler: BaseHTTPRequestHandler, pod: ProcessPod, query: _Query) -> None:
    """sinceSeconds is taken as all: a test has not been running for longer."""
    file = pod.log(query.get("previous") == ["true"])
    if file is None:
        handler.send_error(400, "there is no such container, or it is waiting to start")
        return
    lines = file.read_bytes().splitlines(keepends=True)
    wanted = int(query.get("tailLines", [str(len(lines))])[0])
    sent = sum(map(len, lines[: max(0, len(lines) - wanted)]))
    handler.send_response(200)
    handler.send_header("Content-Type", "text/plain")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    with contextlib.suppress(OSError):  # who follows leaves when they like
        while True:
            is_over = query.get("follow") != ["true"] or pod.has_ended.wait(_LOOK_S)
            if data := file.read_bytes()[sent:]:
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                sent += len(data)
            if is_over:
                break
        handler.wfile.write(b"0\r\n\r\n")


def _forward(handler: BaseHTTPRequestHandler, port: int, here: int | None) -> None:
    """One port over one WebSocket: what comes on the data channel goes to the port, and back."""
    line: Any = handler.connection
    ws = WSConnection(ConnectionType.SERVER)
    headers = [(name.lower().encode(), value.encode()) for name, value in handler.headers.items()]
    ws.initiate_upgrade_connection(headers, handler.path)
    (request,) = ws.events()
    assert isinstance(request, Request)
    assert _CHANNELS in request.subprotocols, request.subprotocols
    sending = threading.Lock()

    def send(event: Any) -> None:
        with sending:
            line.sendall(ws.send(event))

    send(AcceptConnection(subprotocol=_CHANNELS))
    for channel in (_DATA, _ERROR):
        send(BytesMessage(bytes([channel]) + struct.pack("<H", port)))
    try:
        if here is None:
            raise ConnectionRefusedError("connection refused")
        far = socket.create_connection(("127.0.0.1", here))
    except OSError as error:
        send(BytesMessage(bytes([_ERROR]) + f"error forwarding port {port} to pod: {error}".encode()))
        send(CloseConnection(1000))
        return

    def back() -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                send(BytesMessage(bytes([_DATA]) + data))
            send(CloseConnection(1000))

    threading.Thread(target=back, daemon=True).start()
    message = b""
    with contextlib.suppress(OSError), far:
        while data := line.recv(65536):
            ws.receive_data(data)
            for event in ws.events():
                if isinstance(event, BytesMessage):
                    message += event.data
                    if event.message_finished:
                        far.sendall(message[1:] if message[0] == _DATA else b"")
                        message = b""
                elif isinstance(event, Ping):
                    send(event.response())
                elif isinstance(event, CloseConnection):
                    return
