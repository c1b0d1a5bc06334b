"""Bytes to and from a port of a pod, through the cluster's API: a WebSocket of two channels, for the port's data and
for what is said of it when it fails. Both begin with the port's number.

Never blocks once it is made. One thread at a time: a TLS connection is not for two.
"""

from __future__ import annotations

import select
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from modelserve.deploy.kubernetes import refusal
from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.kubernetes.resources import RESOURCES
from modelserve.errors import TargetError, TargetUnreachable

if TYPE_CHECKING:
    from kubernetes.client import Configuration
    from websocket import WebSocket

_PROTOCOL = "v4.channel.k8s.io"
_DATA, _ERROR = 0, 1
_PORT_BYTES = 2
_CONNECT_S = 10.0
_MOST_ERROR = 2000
"""Characters of what is said of the port."""
_WAITING = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Cut(Exception):
    """The connection ended, and nobody has said that it would."""


class PodSocket:
    """Open from the start. A context manager."""

    def __init__(self, cluster: Cluster, pod: str, port: int) -> None:
        """Raises TargetRefused, in the words of the API, and TargetUnreachable."""
        self.error = ""
        """What the cluster says of the port, where it cannot be reached or has failed."""
        self._web = _connected(cluster, pod, port)
        self._socket: Any = self._web.sock
        self._socket.setblocking(False)
        self._unsent = bytearray()
        self._mute = False
        self._needs: dict[str, int] = {}
        """The events without which TLS can neither "send" nor "receive"."""
        self._channel = _DATA
        self._heads = {_DATA: _PORT_BYTES, _ERROR: _PORT_BYTES}

    def __enter__(self) -> PodSocket:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return int(self._socket.fileno())

    @property
    def unsent(self) -> bool:
        return bool(self._unsent)

    def events(self, *, receiving: bool) -> int:
        """What to wait for: there is something to receive, if that is wanted, or room to send what is unsent."""
        found = self._needs.get("receive", select.POLLIN) if receiving else 0
        return found | (self._needs.get("send", select.POLLOUT) if self._unsent else 0)

    def receive(self) -> bytes | None:
        """The next bytes from the pod; None where there are none yet, b"" after the last. Raises Cut."""
        from websocket import ABNF, WebSocketException

        while True:
            try:
                frame = self._web.recv_frame()
            except _WAITING as wait:
                self._wait("receive", wait)
                return None
            except (WebSocketException, OSError) as error:
                raise Cut(" ".join(str(error).split())) from error
            if frame.opcode == ABNF.OPCODE_CLOSE:
                return b""
            if frame.opcode == ABNF.OPCODE_PING:
                self._queue(bytes(frame.data), ABNF.OPCODE_PONG)
                self.flush()
            elif frame.opcode != ABNF.OPCODE_PONG and (data := self._read(frame)):
                return data

    def send(self, data: bytes) -> None:
        """Sent by `flush`; for as long as there is something unsent, nothing more should be given to it."""
        from websocket import ABNF

        self._queue(bytes([_DATA]) + data, ABNF.OPCODE_BINARY)
        self.flush()

    def ping(self) -> None:
        """So that no machine in between takes the connection for forgotten."""
        from websocket import ABNF

        self._queue(b"", ABNF.OPCODE_PING)
        self.flush()

    def farewell(self) -> None:
        """Nothing more will be sent, and nothing read."""
        from websocket import ABNF

        self._queue(b"\x03\xe8", ABNF.OPCODE_CLOSE)  # 1000, a normal end
        self.flush()

    def flush(self) -> None:
        """Send what there is room for. Where nobody takes anything, it is gone: `receive` says why."""
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except _WAITING as wait:
                self._wait("send", wait)
                return
            except OSError:
                self._mute = True
                self._unsent.clear()
                return
            del self._unsent[:sent]

    def _queue(self, data: bytes, opcode: int) -> None:
        from websocket import ABNF

        if not self._mute:
            self._unsent += ABNF.create_frame(data, opcode).format()

    def _wait(self, what: str, wait: BaseException) -> None:
        if isinstance(wait, BlockingIOError):
            self._needs.pop(what, None)
        else:
            self._needs[what] = select.POLLIN if isinstance(wait, ssl.SSLWantReadError) else select.POLLOUT

    def _read(self, frame: Any) -> bytes:
        """The port's data that is in it."""
        from websocket import ABNF

        data = bytes(frame.data)
        if frame.opcode != ABNF.OPCODE_CONT and data:
            self._channel, data = data[0], data[1:]
        if head := min(self._heads.get(self._channel, 0), len(data)):
            self._heads[self._channel] -= head
            data = data[head:]
        if self._channel == _ERROR:
            self.error = (self.error + data.decode(errors="replace"))[:_MOST_ERROR]
        return data if self._channel == _DATA else b""


def _connected(cluster: Cluster, pod: str, port: int) -> WebSocket:
    """Not by the official client, which has no bound in time, and other roots and proxies than for its requests."""
    from websocket import WebSocket, WebSocketBadStatusException, WebSocketException

    path = RESOURCES["Pod"].path(cluster.place.namespace, pod, "portforward")
    url, headers = cluster.signed("GET", path, {"ports": str(port)})
    security = _security(cluster.configuration) if url.startswith("https") else None
    web = WebSocket(sslopt=security, skip_utf8_validation=True)
    try:
        web.connect(
            "ws" + url.removeprefix("http"),
            header=[f"{name}: {value}" for name, value in headers.items()],
            subprotocols=[_PROTOCOL],
            timeout=_CONNECT_S,
            redirect_limit=0,  # whoever it leads to would get the user's token
            suppress_origin=True,
            **_proxy(cluster.configuration),
        )
    except WebSocketBadStatusException as error:
        text = (error.resp_body or b"").decode(errors="replace")
        asked = refusal.Asked("forward a port of", "Pod", pod)
        raise refusal.of(cluster.place, asked, error.status_code, text) from error
    except (WebSocketException, OSError, ValueError) as error:
        raise TargetUnreachable(refusal.unreachable(cluster.place, error)) from error
    if web.subprotocol != _PROTOCOL:
        web.shutdown()
        raise TargetError(f"the cluster {cluster.place.title} does not speak {_PROTOCOL}, which a port-forward needs")
    return web


def _security(configuration: Configuration) -> dict[str, Any]:
    """The same TLS as that of all other requests."""
    from urllib3.util.ssl_ import create_urllib3_context

    context = create_urllib3_context()
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif configuration.ssl_ca_cert or configuration.ca_cert_data:
        context.load_verify_locations(configuration.ssl_ca_cert or None, cadata=configuration.ca_cert_data or None)
    else:
        context.load_default_certs()
    if configuration.assert_hostname is False:
        context.check_hostname = False
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    name = configuration.tls_server_name
    return {"context": context} | ({"server_hostname": name} if name else {})


def _proxy(configuration: Configuration) -> dict[str, Any]:
    """The same proxy. The library would look at the environment once more, and by other rules."""
    from kubernetes.client.rest import should_bypass_proxies

    if not configuration.proxy or should_bypass_proxies(configuration.host, configuration.no_proxy or ""):
        return {"http_no_proxy": ["*"]}
    proxy = urlsplit(configuration.proxy)
    found: dict[str, Any] = {
        "proxy_type": "http" if proxy.scheme in ("http", "https") else proxy.scheme,
        "http_proxy_host": proxy.hostname,
        "http_proxy_port": proxy.port or 80,
        "http_no_proxy": [""],  # no host: the rules have been looked at
    }
    if proxy.username:
        found["http_proxy_auth"] = (unquote(proxy.username), unquote(proxy.password or ""))
    return found
