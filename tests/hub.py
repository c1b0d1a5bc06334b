"""A small model hub on loopback that speaks what huggingface_hub asks, so that model ids resolve without the internet.

`with Hub({"google-bert/bert-base-uncased": path}) as hub: subprocess.run(..., env=os.environ | hub.environment())`.
Files are read from the directories when they are asked for. Weights are LFS files (their ETag is the SHA-256), the
rest are git blobs. Knows nothing of modelserve. One daemon thread per connection.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

READER = "hf_reader"
"""A token that may read everything."""
STRANGER = "hf_stranger"
"""A valid token of somebody who was given no access to gated and private models."""

LFS = (".safetensors", ".bin", ".model", ".h5", ".onnx", ".msgpack", ".gguf")


@dataclass(frozen=True)
class Request:
    """What a client asked for; `range` is its Range header."""

    method: str
    path: str
    range: str | None = None


@dataclass
class Fault:
    """What goes wrong with a file, the next `times` times that it is asked for."""

    times: int = 1
    status: int | None = None
    """Answer this HTTP status."""
    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    damaged: bool = False
    """Send other bytes, as many as there should be."""
    delay_s: float = 0.0


@dataclass
class Repository:
    """One model: its revisions (branch or tag -> directory) and who may read it."""

    revisions: dict[str, Path]
    gated: bool = False
    private: bool = False
    pretend_bytes: dict[str, int] = field(default_factory=dict)
    """Sizes that the listing names instead of the real ones."""

    def find(self, revision: str) -> Path | None:
        """The directory of a branch, a tag or a commit."""
        if revision in self.revisions:
            return self.revisions[revision]
        return next((path for path in self.revisions.values() if commit(path) == revision), None)


class Hub:
    """The hub: runs while the `with` block does. `requests` lists what was asked of it."""

    def __init__(self, models: Mapping[str, Path | Mapping[str, Path]]) -> None:
        """models: id -> directory (then it is `main`), or id -> {branch or tag: directory}."""
        self.models = {
            name: Repository({"main": source} if isinstance(source, Path) else dict(source))
            for name, source in models.items()
        }
        self.faults: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._home = Path(tempfile.mkdtemp(prefix="hub-home-"))

    def __enter__(self) -> Hub:
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def stop(self) -> None:
        """Close the port: from now on the hub cannot be reached. Nothing happens the second time."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(
        self, *, home: Path | None = None, token: str | None = None, offline: bool = False
    ) -> dict[str, str]:
        """What a process needs in its environment to use this hub, with a cache of its own.

        home: HF_HOME; one directory per hub, which goes with it, when not given.
        """
        home = home or self._home
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN": token or "",
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "TRANSFORMERS_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def fail(self, file: str, **fault: Any) -> None:
        """Let requests for `file` go wrong, as a Fault says. `api` is the listing, not a file."""
        self.faults[file] = Fault(**fault)

    def asked(self, file: str, method: str = "GET") -> list[Request]:
        """The requests of one method for one file."""
        return [request for request in self.requests if request.method == method and request.path.endswith(f"/{file}")]

    def take_fault(self, file: str) -> Fault | None:
        """The fault that this request for `file` meets; it is used up by it."""
        with self._lock:
            fault = self.faults.get(file)
            if fault is None or fault.times <= 0:
                return None
            fault.times -= 1
            return fault


def sha256(path: Path) -> str:
    """The name of an LFS object."""
    return _sha256(path, path.stat().st_mtime_ns)


@cache
def _sha256(path: Path, modified_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def blob_id(path: Path) -> str:
    """Git's name of a blob."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content), usedforsecurity=False).hexdigest()


def files(directory: Path) -> dict[str, Path]:
    """Path in the repository -> file, sorted."""
    return {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if not path.is_dir()}


def commit(directory: Path) -> str:
    """The commit that a directory is: it changes when a file does."""
    names = "".join(
        f"{name} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for name, path in files(directory).items()
    )
    return hashlib.sha1(names.encode(), usedforsecurity=False).hexdigest()


class _Row(NamedTuple):
    """A file in a listing; `digest` is the SHA-256 of an LFS file."""

    path: str
    size: int
    blob: str
    digest: str | None


def _info(name: str, directory: Path, rows: list[_Row]) -> dict[str, Any]:
    """GET /api/models/{name}?blobs=true"""
    siblings: list[dict[str, Any]] = []
    for row in rows:
        siblings.append({"rfilename": row.path, "size": row.size, "blobId": row.blob})
        if row.digest:
            siblings[-1]["lfs"] = {"sha256": row.digest, "size": row.size, "pointerSize": 134}
    return {"id": name, "modelId": name, "sha": commit(directory), "siblings": siblings, "tags": [], "private": False}


def _tree(rows: list[_Row], folder: str | None) -> list[dict[str, Any]] | None:
    """GET /api/models/{name}/tree/{revision}/{folder}, always recursive; None for a folder that is not there."""
    tree: list[dict[str, Any]] = []
    for row in rows:
        if folder is not None and not row.path.startswith(f"{folder}/"):
            continue
        tree.append({"type": "file", "path": row.path, "size": row.size, "oid": row.blob})
        if row.digest:
            tree[-1]["lfs"] = {"oid": row.digest, "size": row.size, "pointerSize": 134}
    return tree or None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(Request(self.command, path, self.headers.get("Range")))
        if match := re.fullmatch(r"/api/models/(.+?)/tree/([^/]+)(?:/(.+))?", path):
            self._listing(match[1], match[2], lambda *listing: _tree(listing[2], match[3]))
        elif match := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path):
            self._listing(match[1], match[2] or "main", _info)
        elif match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self._file(*match.groups())
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """`Hub.requests` is the log."""

    def _listing(self, name: str, revision: str, render: Any) -> None:
        fault = self.server.hub.take_fault("api")
        if fault is not None:
            time.sleep(fault.delay_s)
            if fault.status is not None:
                self._refuse(fault.status)
                return
        repository = self._repository(name)
        if repository is None:
            return
        directory = repository.find(revision)
        if directory is None:
            self._refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        rows = []
        for path, file in files(directory).items():
            size = repository.pretend_bytes.get(path, file.stat().st_size)
            rows.append(_Row(path, size, blob_id(file), sha256(file) if path.endswith(LFS) else None))
        found = render(name, directory, rows)
        if found is None:
            self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found")
        else:
            self._answer(json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if repository.gated and self._token() != READER:
            status = HTTPStatus.FORBIDDEN if self._token() else HTTPStatus.UNAUTHORIZED
            self._refuse(status, "GatedRepo", f"Access to model {name} is restricted.")
            return
        directory = repository.find(revision)
        if directory is None:
            self._refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        headers = {"X-Repo-Commit": commit(directory), "Accept-Ranges": "bytes"}
        file = files(directory).get(path)
        if file is None:
            self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found", headers)
            return
        if path.endswith(LFS):
            headers["X-Linked-Etag"] = headers["ETag"] = f'"{sha256(file)}"'
            headers["X-Linked-Size"] = str(file.stat().st_size)
        else:
            headers["ETag"] = f'"{blob_id(file)}"'
        body = file.read_bytes()
        fault = self.server.hub.take_fault(path) if self.command == "GET" else None
        if fault is not None:
            time.sleep(fault.delay_s)
            if fault.status is not None:
                self._refuse(fault.status)
                return
            if fault.damaged:
                body = body[:-8] + bytes(byte ^ 0xFF for byte in body[-8:])
        self._answer(body, headers, cut_after=fault.cut_after if fault else None)

    def _repository(self, name: str) -> Repository | None:
        """The model, or None after the answer that the hub gives to those who may not know of it."""
        token = self._token()
        if token not in ("", READER, STRANGER):
            self._refuse(HTTPStatus.UNAUTHORIZED, None, "Invalid credentials in Authorization header")
            return None
        repository = self.server.hub.models.get(name)
        if repository is not None and (not repository.private or token == READER):
            return repository
        if token:
            self._refuse(HTTPStatus.NOT_FOUND, "RepoNotFound", "Repository not found")
        else:
            self._refuse(HTTPStatus.UNAUTHORIZED, "RepoNotFound", "Invalid username or password.")
        return None

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ").strip()

    def _refuse(
        self, status: int, code: str | None = None, message: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        errors = {"X-Error-Code": code or "", "X-Error-Message": message}
        body = json.dumps({"error": message}).encode()
        self._answer(
            body, {name: value for name, value in errors.items() if value} | dict(headers or {}), status=status
        )

    def _answer(
        self, body: bytes, headers: Mapping[str, str], *, status: int = HTTPStatus.OK, cut_after: int | None = None
    ) -> None:
        if status == HTTPStatus.OK and (match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start = int(match[1])
            headers = {**headers, "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            body, status = body[start:], HTTPStatus.PARTIAL_CONTENT
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut_after is not None:
            self.wfile.write(body[:cut_after])
            self.close_connection = True
        else:
            self.wfile.write(body)
