"""A web server of files on loopback, with what goes wrong on the way, and a real S3 (moto) in a process of its own.

`with Web({"/bert.zip": content}) as web: fetch(web.url + "/bert.zip")`. Knows nothing of modelserve. One daemon thread
per connection.
"""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import httpx

PIECE = 1 << 16


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    """Lower case."""


@dataclass
class Fault:
    """What goes wrong, the next `times` times that a file is asked for."""

    times: int = 1
    spares: int = 0
    """How many times it goes well before."""
    status: int | None = None
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    hold_after: int | None = None
    """Send no more after so many bytes of the body until `Web.go_on` is set."""
    damaged: bool = False
    """Send other bytes, as many as there should be."""
    delay_s: float = 0.0


@dataclass
class File:
    content: bytes
    etag: str | None = None
    modified: str | None = None
    ranges: bool = True
    conditions: bool = True
    """Whether If-None-Match is understood."""
    length: bool = True
    """Whether Content-Length is told; a connection that ends is the end of the file otherwise."""
    password: str | None = None
    """user:password"""
    location: str | None = None
    """Redirect there."""
    wrong_range: str | None = None
    """Content-Range of an answer to a Range, which has other bytes then."""
    headers: dict[str, str] = field(default_factory=dict)


class Web:
    """Runs while the `with` block does. `requests` lists what was asked of it."""

    def __init__(self, files: Mapping[str, bytes | File] | None = None, *, before: str | None = None) -> None:
        """before: the URL of a server behind this one, which has the files."""
        self.before = before
        self.files: dict[str, File] = {}
        for path, file in (files or {}).items():
            self.put(path, file)
        self.faults: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.sent: list[int] = []
        """Bytes of each body."""
        self.go_on = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Web:
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.stop()

    def stop(self) -> None:
        """Close the port. Nothing happens the second time."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def put(self, path: str, file: bytes | File) -> None:
        """A file; bytes have an ETag that changes with them."""
        if isinstance(file, bytes):
            file = File(file, etag=f'"{hashlib.sha1(file, usedforsecurity=False).hexdigest()}-1"')
        self.files[path] = file

    def fail(self, path: str, **fault: Any) -> None:
        self.faults[path] = Fault(**fault)

    def take_fault(self, path: str) -> Fault:
        """What goes wrong with this request; it is used up by it."""
        with self._lock:
            fault = self.faults.get(path)
            if fault is None or fault.times <= 0:
                return Fault()
            if fault.spares > 0:
                fault.spares -= 1
                return Fault()
            fault.times -= 1
            return fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, web: Web) -> None:
        self.web = web
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        web, path = self.server.web, urlsplit(self.path).path
        web.requests.append(
            Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        fault = web.take_fault(path)
        time.sleep(fault.delay_s)
        file = web.files.get(path)
        if web.before is not None and fault.status is None:
            self._forward(web.before, fault)
        elif fault.status is not None or file is None:
            self._answer(fault.status or HTTPStatus.NOT_FOUND, {}, b"no")
        elif file.location is not None:
            self._answer(HTTPStatus.FOUND, {"Location": file.location}, b"")
        elif file.password and self.headers.get("Authorization") != _basic(file.password):
            self._answer(HTTPStatus.UNAUTHORIZED, {}, b"no")
        else:
            self._file(file, fault)

    def do_HEAD(self) -> None:
        if self.server.web.before is not None:
            self._forward(self.server.web.before, Fault())
        else:  # as a URL that is signed for GET
            self._answer(HTTPStatus.FORBIDDEN, {}, b"")

    def _forward(self, to: str, fault: Fault) -> None:
        answer = httpx.request(self.command, to + self.path, headers=dict(self.headers.items()))
        headers = {
            name: value for name, value in answer.headers.items() if name not in ("connection", "date", "server")
        }
        body = answer.content
        if self.command == "GET":
            headers.pop("content-length", None)
        if fault.damaged:
            body = body[:-8] + bytes(byte ^ 0xFF for byte in body[-8:])
        self._answer(answer.status_code, headers, body, fault=fault, length=self.command == "GET")

    def _file(self, file: File, fault: Fault) -> None:
        headers = dict(file.headers)
        if file.etag:
            headers["ETag"] = file.etag
        if file.modified:
            headers["Last-Modified"] = file.modified
        if file.conditions and file.etag and self.headers.get("If-None-Match") == file.etag:
            self._answer(HTTPStatus.NOT_MODIFIED, headers, b"")
            return
        body, status = file.content, HTTPStatus.OK
        if fault.damaged:
            body = body[:-8] + bytes(byte ^ 0xFF for byte in body[-8:])
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        unchanged = self.headers.get("If-Range") in (None, file.etag, file.modified)
        if file.ranges and asked and unchanged:
            start = int(asked[1])
            if start >= len(body):
                self._answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {}, b"")
                return
            right = f"bytes {start}-{len(body) - 1}/{len(body)}"
            headers["Content-Range"] = right if file.wrong_range is None else file.wrong_range
            rest = body[start:] if file.wrong_range is None else bytes(len(body) - start)
            body, status = rest, HTTPStatus.PARTIAL_CONTENT
        self._answer(status, headers, body, fault=fault, length=file.length)

    def _answer(
        self, status: int, headers: Mapping[str, str], body: bytes, *, fault: Fault | None = None, length: bool = True
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not length:
            self.close_connection = True
        elif status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = 0
        ends = [end for end in ((fault.cut_after, fault.hold_after) if fault else ()) if end is not None]
        for end in [*ends, len(body)]:
            while sent < end:
                sent += self.wfile.write(body[sent : min(end, sent + PIECE)])
            if fault and fault.cut_after == end:
                self.close_connection = True
                break
            if fault and fault.hold_after == end:
                self.server.web.go_on.wait(60)
        self.server.web.sent.append(sent)

    def log_message(self, format: str, *args: Any) -> None:
        """`Web.requests` is the log."""


def _basic(password: str) -> str:
    return f"Basic {base64.b64encode(password.encode()).decode()}"


@dataclass
class S3:
    """A real S3 server on loopback, empty but for what `put` puts there."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self, name: str) -> None:
        self._send("PUT", name)

    def put(self, path: str, content: bytes, **headers: str) -> None:
        """path: bucket/key"""
        self._send("PUT", path, content=content, headers=headers)

    def delete(self, path: str) -> None:
        self._send("DELETE", path)

    def _send(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **request: Any) -> None:
        # moto looks whether there is a signature, not at it.
        signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, Signature=0"}
        httpx.request(
            method, f"{self.url}/{quote(path)}", headers=signed | dict(headers or {}), **request
        ).raise_for_status()


@contextmanager
def s3() -> Iterator[S3]:
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + 60
            while True:
                log.seek(0)
                if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read()):
                    break
                assert process.poll() is None, "no S3 server"
                assert time.monotonic() < deadline, "no S3 server"
                time.sleep(0.05)
            yield S3(found[1])
        finally:
            process.kill()
            process.wait()
