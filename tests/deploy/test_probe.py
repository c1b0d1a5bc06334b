"""What is made of a server's answers, against a server that says what it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from modelserve.deploy import probe
from modelserve.deploy.probe import Address, Answer

SAYS: dict[str, tuple[int, str]] = {}


class Says(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        code, body = SAYS[self.path]
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def address() -> Iterator[Address]:
    server = HTTPServer(("127.0.0.1", 0), Says)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield Address("127.0.0.1", server.server_address[1])
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("ready", "live", "expected"),
    [
        ((200, '{"ready":true}'), (200, "{}"), Answer(True, True, True, "ready", 1.0, "")),
        (
            (503, '{"ready":false,"stage":"load","progress":0.4,"reason":"it is loading"}'),
            (200, '{"live":true}'),
            Answer(True, False, True, "load", 0.4, "it is loading"),
        ),
        (
            (503, '{"ready":false,"stage":"stuck","progress":1.0,"reason":"see live"}'),
            (503, '{"live":false}'),
            Answer(True, False, False, "stuck", 1.0, "see live"),
        ),
        ((404, "{}"), (404, "{}"), Answer(True, False, True, "", 0.0, "it answers 404")),
    ],
)
def test_health(address: Address, ready: tuple[int, str], live: tuple[int, str], expected: Answer) -> None:
    SAYS["/v2/health/ready"], SAYS["/v2/health/live"] = ready, live
    assert probe.health(address) == expected


@pytest.mark.parametrize("body", ["", "[]", "null", '{"progress": "x"}', "<html>"])
def test_what_is_no_answer_of_ours(address: Address, body: str) -> None:
    SAYS["/v2/health/ready"] = SAYS["/v2/health/live"] = 503, body
    assert not probe.health(address).answered


def test_requests_are_summed_over_apis(address: Address) -> None:
    SAYS["/metrics"] = (
        200,
        "# HELP modelserve_requests_total Finished requests\n"
        'modelserve_requests_total{api="v2",code="200",task="fill_mask"} 3.0\n'
        'modelserve_requests_total{api="v1",code="400",task=""} 2.0\n'
        'modelserve_requests_created{api="v1",code="400",task=""} 1.7e+09\n',
    )
    assert probe.requests(address) == 5
    SAYS["/metrics"] = 200, ""
    assert probe.requests(address) == 0
    SAYS["/metrics"] = 500, ""
    assert probe.requests(address) is None


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", taken.getsockname()[1])
        assert probe.health(address) == Answer(reason="Connection refused")
        assert probe.requests(address) is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [("0.0.0.0", "127.0.0.1:80"), ("::", "[::1]:80"), ("::1", "[::1]:80"), ("10.0.0.7", "10.0.0.7:80")],
)
def test_address(host: str, expected: str) -> None:
    assert str(Address.of(host, 80)) == expected
