"""A local port that leads to a pod, through an API server over real HTTP: no byte lost, a reason for each failure."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import os
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage
from wsproto.frame_protocol import Opcode

from modelserve.client import Client
from modelserve.deploy.kubernetes import forward as forwards
from modelserve.deploy.kubernetes import pod_socket, pump
from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.kubernetes.forward import Forward
from modelserve.errors import TargetError, TargetRefused, TargetUnreachable
from tests.deploy.kubernetes import ways
from tests.deploy.kubernetes.certificates import Authority
from tests.deploy.kubernetes.fake import Fake
from tests.deploy.kubernetes.manifests import deployment
from tests.models import tiny
from tests.process import serve

PORT = 8080
BOUND_S = 30.0
MIB = 2**20
_PATTERN = os.urandom(1_000_003)
"""Of no length that a buffer has."""


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    _wait(lambda: not _threads())


@pytest.fixture
def api(fake: Fake, tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(str(fake.kubeconfig(tmp_path / "config")))
    yield found
    found.close()


@pytest.fixture
def pod(fake: Fake) -> str:
    fake.add(deployment())
    fake.wait(lambda: [one["status"].get("phase") for one in fake.objects("Pod")] == ["Running"])
    return str(fake.objects("Pod")[0]["metadata"]["name"])


@pytest.fixture
def forward(api: Cluster, pod: str) -> Iterator[Forward]:
    with Forward(api, lambda: (pod, PORT)) as found:
        yield found


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "port-forward"]


def _wait(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _connected(forward: Forward) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", int(forward.url.rpartition(":")[2])), timeout=BOUND_S)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def _all(link: socket.socket) -> bytes:
    found = b""
    while data := link.recv(MIB):
        found += data
    return found


@contextmanager
def _listening(talk: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """A server whose connections are each given to `talk`, and closed afterwards."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                talk(self.request)
            except OSError:
                return  # the other side has gone

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

    with _serving(Server(("127.0.0.1", 0), Handler)) as port:
        yield "127.0.0.1", port


@contextmanager
def _serving(server: socketserver.TCPServer) -> Iterator[int]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def _echo(link: socket.socket) -> None:
    while data := link.recv(2**16):
        link.sendall(data)


class _Http(http.server.BaseHTTPRequestHandler):
    """POST: the digest of the body. GET /N: N bytes, the same ones each time."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_POST(self) -> None:
        self._answer(hashlib.sha256(self.rfile.read(int(self.headers["Content-Length"]))).digest())

    def do_GET(self) -> None:
        self._answer(_bytes(int(self.path[1:])))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def _bytes(count: int) -> bytes:
    """Such that a piece that is missing, or at another place, is seen."""
    return (_PATTERN * (count // len(_PATTERN) + 1))[:count]


@contextmanager
def _web() -> Iterator[tuple[str, int]]:
    with _serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Http)) as port:
        yield "127.0.0.1", port


@pytest.fixture
def web(fake: Fake) -> Iterator[None]:
    with _web() as fake.backend:
        yield


def _asked(forward: Forward) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(forward.url.removeprefix("http://"), timeout=BOUND_S)


@pytest.mark.slow
@pytest.mark.usefixtures("web")
def test_large_bodies_both_ways_on_one_connection(forward: Forward) -> None:
    body = os.urandom(50 * MIB)
    connection = _asked(forward)
    connection.request("POST", "/", body)
    assert connection.getresponse().read() == hashlib.sha256(body).digest()
    connection.request("GET", f"/{50 * MIB}")
    assert connection.getresponse().read() == _bytes(50 * MIB)
    connection.close()
    assert forward.last_error is None


@pytest.mark.slow
@pytest.mark.usefixtures("web")
def test_many_connections_at_once(forward: Forward, fake: Fake) -> None:
    gate = threading.Barrier(32)

    def ask(number: int) -> None:
        connection = _asked(forward)
        connection.connect()
        gate.wait(BOUND_S)
        for turn in range(3):
            body = os.urandom(number * 4000 + turn)
            connection.request("POST", "/", body)
            assert connection.getresponse().read() == hashlib.sha256(body).digest()
        connection.close()

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(ask, range(32)))
    assert len([path for _, path in fake.requests if "/portforward?" in path]) == 32
    assert forward.last_error is None


def test_both_ways_at_once(forward: Forward, fake: Fake) -> None:
    said = os.urandom(8 * MIB)
    with _listening(_echo) as fake.backend, _connected(forward) as link, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(link.sendall, said)
        found = b""
        while len(found) < len(said):
            found += link.recv(MIB)
        sent.result()
    assert found == said


def test_who_has_said_all_still_gets_the_answer(forward: Forward, fake: Fake) -> None:
    def talk(link: socket.socket) -> None:
        got = b""
        while len(got) < 100_000:
            got += link.recv(2**16)
        time.sleep(0.2)  # a model that thinks
        link.sendall(hashlib.sha256(got).digest() + _bytes(MIB))

    with _listening(talk) as fake.backend, _connected(forward) as link:
        said = os.urandom(100_000)
        link.sendall(said)
        link.shutdown(socket.SHUT_WR)
        assert _all(link) == hashlib.sha256(said).digest() + _bytes(MIB)


def test_who_hangs_up_at_once_has_still_said_it(forward: Forward, fake: Fake) -> None:
    got: list[bytes] = []

    def talk(link: socket.socket) -> None:
        while data := link.recv(4096):
            got.append(data)
            time.sleep(0.0001)

    with _listening(talk) as fake.backend:
        with _connected(forward) as link:
            link.sendall(_bytes(MIB))
        _wait(lambda: sum(map(len, got)) == MIB)
        assert b"".join(got) == _bytes(MIB)


def test_a_caller_who_breaks_off_is_gone_for_the_pod(forward: Forward, fake: Fake) -> None:
    left = threading.Event()

    def talk(link: socket.socket) -> None:
        link.sendall(b"hello")
        while link.recv(4096):
            pass
        left.set()

    with _listening(talk) as fake.backend:
        with _connected(forward) as link:
            assert link.recv(5) == b"hello"
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert left.wait(BOUND_S)


def test_a_slow_reader_makes_the_pod_wait(forward: Forward, fake: Fake) -> None:
    sent, left = [0], threading.Event()

    def talk(link: socket.socket) -> None:
        piece = bytes(MIB)
        try:
            for _ in range(500):
                link.sendall(piece)
                sent[0] += 1
        finally:
            left.set()

    def rests() -> bool:
        before = sent[0]
        time.sleep(0.3)
        return before == sent[0] > 0

    with _listening(talk) as fake.backend:
        with _connected(forward) as link:
            _wait(rests)
            assert sent[0] < 100
            assert len(link.recv(100)) == 100
        assert left.wait(BOUND_S)  # the caller is gone, and the pod learns of it


def test_nothing_listens_in_the_pod(forward: Forward, pod: str) -> None:
    with _connected(forward) as link:
        link.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            link.recv(1)
    assert isinstance(forward.last_error, TargetError)
    assert forward.last_error.message.startswith(f"the port 8080 of the pod {pod} cannot be reached: error forwarding")
    assert "connection refused" in forward.last_error.message
    forward.check()  # the cluster would


def _refused(forward: Forward) -> TargetError:
    with pytest.raises(ConnectionResetError), _connected(forward) as link:
        link.recv(1)
    assert isinstance(forward.last_error, TargetError)
    return forward.last_error


def test_a_right_that_is_missing(forward: Forward, fake: Fake, pod: str) -> None:
    fake.deny("*", "pods/portforward")
    with pytest.raises(TargetRefused, match=r'cannot \w+ resource "pods/portforward"') as raised:
        forward.check()
    assert raised.value.status == 403
    assert raised.value.message.startswith(f"the cluster refuses to forward a port of Pod {pod}: ")
    assert _refused(forward).message == raised.value.message


def test_a_pod_that_is_gone_and_the_next(api: Cluster, fake: Fake, pod: str) -> None:
    asked: list[str] = []

    def pick() -> tuple[str, int]:
        names = [one["metadata"]["name"] for one in fake.objects("Pod") if one["status"].get("phase") == "Running"]
        if not names:
            raise TargetError("no pod answers now")
        asked.append(names[0])
        return names[0], PORT

    with _listening(_echo) as fake.backend, Forward(api, pick) as forward:
        for _ in range(2):
            with _connected(forward) as link:
                link.sendall(b"hello")
                assert link.recv(5) == b"hello"
            fake.remove("Pod", asked[-1])
            fake.wait(lambda: any(one["status"].get("phase") == "Running" for one in fake.objects("Pod")))
        fake.remove("Deployment", "web")
        fake.wait(lambda: not fake.objects("Pod"))
        assert _refused(forward).message == "no pod answers now"
        with pytest.raises(TargetError, match="no pod answers now"):
            forward.check()
    assert len(set(asked)) == 2
    with Forward(api, lambda: (pod, PORT)) as forward, pytest.raises(TargetRefused, match="not found"):
        forward.check()


def test_a_cluster_that_does_not_answer(forward: Forward, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_socket, "_CONNECT_S", 0.2)
    fake.hang()
    assert isinstance(_refused(forward), TargetUnreachable)
    fake.resume()
    fake.vanish()
    with pytest.raises(TargetUnreachable, match=r"the cluster fake \(http://.*\) does not answer: Connection refused"):
        forward.check()


@pytest.mark.parametrize("reset", [False, True])
def test_a_way_that_breaks_is_no_end(forward: Forward, fake: Fake, reset: bool) -> None:
    def talk(link: socket.socket) -> None:
        link.sendall(b"half of it")
        link.recv(1)

    with _listening(talk) as fake.backend, _connected(forward) as link:
        assert link.recv(10) == b"half of it"
        fake.cut_watches(reset=reset)
        with pytest.raises(ConnectionResetError):
            link.recv(1)
    assert isinstance(forward.last_error, TargetUnreachable)
    assert " broke: " in forward.last_error.message


def test_close_ends_what_is_there(api: Cluster, fake: Fake, pod: str) -> None:
    with _listening(_echo) as fake.backend:
        forward = Forward(api, lambda: (pod, PORT))
        with _connected(forward) as link, _connected(forward) as other:
            link.sendall(b"hello")
            assert link.recv(5) == b"hello"
            other.sendall(b"hello")
            forward.close()
            forward.close()
            with pytest.raises(ConnectionResetError):
                link.recv(1)
        with pytest.raises(ConnectionRefusedError):
            _connected(forward)
    assert forward.last_error is None


def test_close_does_not_wait_for_a_cluster_that_says_nothing(
    api: Cluster, fake: Fake, pod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_socket, "_CONNECT_S", 1.0)
    monkeypatch.setattr(forwards, "_JOIN_S", 0.05)
    fake.hang()
    forward = Forward(api, lambda: (pod, PORT))
    with _connected(forward) as link:
        _wait(lambda: len(_threads()) == 2)
        forward.close()
        assert len(_threads()) == 1  # which is told when it has had its answer, or none in time
        with pytest.raises(ConnectionResetError):
            link.recv(1)
    fake.resume()


def test_silence_is_bridged_by_pings(forward: Forward, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "_QUIET_S", 0.05)
    pings = []
    ping = pod_socket.PodSocket.ping
    monkeypatch.setattr(pod_socket.PodSocket, "ping", lambda self: (pings.append(1), ping(self)))
    with _listening(_echo) as fake.backend, _connected(forward) as link:
        link.sendall(b"hello")
        assert link.recv(5) == b"hello"
        _wait(lambda: len(pings) > 5)
        link.sendall(b"still there")
        assert link.recv(11) == b"still there"


def _certified(fake: Fake, authority: Authority, port: int, path: Path, proxy: str = "") -> Cluster:
    """The cluster by a kubeconfig with a client's certificate."""
    text = fake.kubeconfig(path).read_text()
    client = authority.client("somebody")
    more = f"certificate-authority: {authority.certificate}" + (f"\n    proxy-url: {proxy}" if proxy else "")
    text = text.replace(f"server: {fake.url}", f"server: https://localhost:{port}\n    {more}")
    found = f"user:\n    client-certificate: {client.certificate}\n    client-key: {client.key}\n"
    path.write_text(text.replace("user:\n", found))
    return Cluster(str(path))


@pytest.mark.slow
@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.usefixtures("web")
def test_over_tls_with_certificates_and_a_proxy(fake: Fake, pod: str, tmp_path: Path, proxied: bool) -> None:
    authority, heads = Authority(tmp_path), list[str]()
    with ExitStack() as stack:
        proxy = f"http://user:pass%3Aword@127.0.0.1:{stack.enter_context(ways.proxy(heads))}" if proxied else ""
        port = stack.enter_context(ways.tls(int(fake.url.rpartition(":")[2]), authority))
        api = _certified(fake, authority, port, tmp_path / "config", proxy)
        stack.callback(api.close)
        assert api.get("Pod", pod) is not None
        forward = stack.enter_context(Forward(api, lambda: (pod, PORT)))
        body = os.urandom(10 * MIB)
        connection = _asked(forward)
        connection.request("POST", "/", body)
        assert connection.getresponse().read() == hashlib.sha256(body).digest()
        connection.request("GET", f"/{10 * MIB}")
        assert connection.getresponse().read() == _bytes(10 * MIB)
        connection.close()
        fake.backend = stack.enter_context(_listening(_echo))
        with _connected(forward) as link, ThreadPoolExecutor(1) as pool:
            sent = pool.submit(link.sendall, body)
            found = b""
            while len(found) < len(body):
                found += link.recv(MIB)
            sent.result()
            assert found == body
        assert forward.last_error is None
    assert len(heads) == (3 if proxied else 0)
    assert all(head.startswith(f"CONNECT localhost:{port} ") for head in heads)
    assert all("Proxy-Authorization: Basic dXNlcjpwYXNzOndvcmQ=" in head for head in heads[1:])


def test_a_server_that_nobody_vouches_for(fake: Fake, pod: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    authority, other = Authority(tmp_path), Authority(tmp_path / "other")
    with ways.tls(int(fake.url.rpartition(":")[2]), other) as port:
        api = _certified(fake, authority, port, tmp_path / "config")
        with Forward(api, lambda: (pod, PORT)) as forward, pytest.raises(TargetUnreachable, match="certificate"):
            forward.check()
        api.configuration.verify_ssl = False
        assert pod_socket._security(api.configuration)["context"].verify_mode == ssl.CERT_NONE
        api.close()


@contextmanager
def _scripted(script: Callable[[socket.socket, WSConnection], None]) -> Iterator[int]:
    """An API server that knows one thing: a port-forward, as the script plays it."""

    def talk(link: socket.socket) -> None:
        web = WSConnection(ConnectionType.SERVER)
        while not any(isinstance(event, Request) for event in web.events()):
            web.receive_data(link.recv(65536))
        link.sendall(web.send(AcceptConnection(subprotocol="v4.channel.k8s.io")))
        script(link, web)

    with _listening(talk) as (_, port):
        yield port


def _of(port: int, folder: Path) -> Cluster:
    path = folder / "scripted"
    path.write_text(
        f"""{{"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{{"name": "c", "cluster": {{"server": "http://127.0.0.1:{port}"}}}}], "users": [],
        "contexts": [{{"name": "c", "context": {{"cluster": "c", "user": "c"}}}}]}}"""
    )
    return Cluster(str(path))


@contextmanager
def _played(script: Callable[[socket.socket, WSConnection], None], folder: Path) -> Iterator[Forward]:
    with _scripted(script) as port:
        api = _of(port, folder)
        with Forward(api, lambda: ("pod", PORT)) as forward:
            yield forward
        api.close()


def test_messages_in_pieces_and_pings_in_between(tmp_path: Path) -> None:
    pongs = []

    def script(link: socket.socket, web: WSConnection) -> None:
        link.sendall(web.send(BytesMessage(b"\x00\x90", message_finished=False)))
        link.sendall(web.send(Ping(b"are you there")))
        link.sendall(web.send(BytesMessage(b"\x1fone ", message_finished=True)))
        link.sendall(web.send(BytesMessage(b"\x01\x90\x1f")))
        link.sendall(web.send(TextMessage("\x00two ")))
        link.sendall(web.send(BytesMessage(b"\x00", message_finished=False)))
        link.sendall(web.send(BytesMessage(b"three", message_finished=True)))
        while not pongs:
            web.receive_data(link.recv(65536))
            pongs.extend(event for event in web.events() if isinstance(event, Pong))
        link.sendall(web.send(CloseConnection(code=1000)))

    with _played(script, tmp_path) as forward, _connected(forward) as link:
        assert _all(link) == b"one two three"
    assert [bytes(pong.payload) for pong in pongs] == [b"are you there"]
    assert forward.last_error is None


def test_a_pod_that_closes_while_it_is_spoken_to(tmp_path: Path) -> None:
    """As servers do with a body that is too large: the answer comes through, all of it."""

    def script(link: socket.socket, web: WSConnection) -> None:
        link.recv(10)
        link.sendall(web.send(BytesMessage(b"\x00\x90\x1f")))
        for at in range(0, MIB, 2**15):
            link.sendall(web.send(BytesMessage(b"\x00" + _bytes(MIB)[at : at + 2**15])))
        link.sendall(web.send(CloseConnection(code=1000)))
        while link.recv(2**16):
            pass

    with _played(script, tmp_path) as forward, _connected(forward) as link:
        link.sendall(_bytes(MIB))
        assert link.recv(1) == _bytes(1)
        link.sendall(_bytes(MIB))
        assert _all(link) == _bytes(MIB)[1:]
    assert forward.last_error is None


def test_an_error_after_data_is_no_end(tmp_path: Path) -> None:
    def script(link: socket.socket, web: WSConnection) -> None:
        link.sendall(web.send(BytesMessage(b"\x00\x90\x1f")))
        link.sendall(web.send(BytesMessage(b"\x01\x90\x1f")))
        link.sendall(web.send(BytesMessage(b"\x00some")))
        link.recv(1)
        link.sendall(web.send(BytesMessage(b"\x01lost connection\n to pod")))
        link.sendall(web.send(CloseConnection(code=1000)))
        link.recv(1)

    with _played(script, tmp_path) as forward, _connected(forward) as link:
        assert link.recv(10) == b"some"
        link.sendall(b"and then")
        with pytest.raises(ConnectionResetError):
            link.recv(10)
    assert str(forward.last_error) == "the port 8080 of the pod pod cannot be reached: lost connection to pod"


def test_frames_that_are_none(tmp_path: Path) -> None:
    def script(link: socket.socket, web: WSConnection) -> None:
        link.sendall(bytes([0x80 | 0x40 | Opcode.BINARY, 1, 0]))
        link.recv(65536)

    with _played(script, tmp_path) as forward:
        assert "broke" in _refused(forward).message


@pytest.mark.slow
def test_a_real_server_behind_it(forward: Forward, fake: Fake) -> None:
    with serve("--model_dir", tiny("bert", "fill_mask"), "--task", "fill_mask", "--model_name", "bert") as server:
        fake.backend = ("127.0.0.1", server.http_port)
        direct, through = Client(server.url, "bert"), Client(forward.url, "bert")
        texts = ["The capital of France is [MASK].", "Hello [MASK]."]
        assert through.predict(texts) == direct.predict(texts)
    assert forward.last_error is None
