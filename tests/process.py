"""A real `modelserve serve` process for tests: started on free ports, awaited, asked, ended by its pid."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx


@dataclass
class Server:
    """A running server. `log` is what it has written so far."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int | None
    output: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def log(self) -> str:
        return self.output.read_text(errors="replace")

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **kwargs)

    def post(self, path: str, json: Any = None, **kwargs: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=json, timeout=60, **kwargs)

    def wait_ready(self, timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log}")
            with contextlib.suppress(httpx.TransportError):
                if self.get("/v2/health/ready").status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"not ready within {timeout_s} s:\n{self.log}")

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60) -> int:
        """Send the signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)


@contextlib.contextmanager
def serve(
    *args: str | Path, ready: bool = True, env: dict[str, str] | None = None, code: str | None = None
) -> Iterator[Server]:
    """`modelserve serve ARGS` on free ports. code: Python to run in the process first, to inject a fault."""
    run = "import sys; from modelserve.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", f"{code}\n{run}" if code else run, "serve", *map(str, args)]
    with started([*command, "--http_port=0", "--grpc_port=0"], ready=ready, env=env) as server:
        yield server


@contextlib.contextmanager
def started(command: Sequence[str], *, ready: bool = True, env: dict[str, str] | None = None) -> Iterator[Server]:
    """The server that a command starts, ended when the block is left."""
    with tempfile.TemporaryDirectory() as directory:
        ports, output = Path(directory) / "ports", Path(directory) / "log"
        with output.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"MODELSERVE_PORTS_FILE": str(ports)} | (env or {}),
            )
        try:
            said = _ports(process, ports, output)
            server = Server(process, said["http_port"], said["grpc_port"], output)
            if ready:
                server.wait_ready()
            yield server
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _ports(process: subprocess.Popen[bytes], file: Path, output: Path) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while not file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"no ports were told (exit status {process.poll()}):\n{output.read_text()}")
        time.sleep(0.02)
    said: dict[str, Any] = json.loads(file.read_text())
    return said
