"""A server ends with the process that keeps it, at whatever moment of its life that goes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelserve import parent
from modelserve.environment import PARENT_FD
from tests.models import tiny

RUN = "import sys; from modelserve.cli import main; sys.exit(main())"
STALLED_LOAD = "import time, modelserve.runtime.model as model; model._load = lambda *given: time.sleep(1000)"
STALLED_LOOP = """
import asyncio, time, modelserve.parent as parent, modelserve.server as server
parent._GRACE_S = 0.5
_serve = server._serve
def stall():
    print("stalled", flush=True)
    time.sleep(1000)
async def stalled(config):
    asyncio.get_running_loop().call_later(2, stall)
    await _serve(config)
server._serve = stalled
"""


class Kept:
    """A server, and the end of the pipe that its keeper has."""

    def __init__(self, process: subprocess.Popen[bytes], fd: int, ports: Path, log: Path) -> None:
        self.process = process
        self.ports = ports
        self.log = log
        self._fd = fd

    def let_go(self) -> float:
        """As the kernel does when the keeper is gone; returns after how many seconds the server was gone."""
        os.close(self._fd)
        self._fd = -1
        begun = time.monotonic()
        self.process.wait(30)
        return time.monotonic() - begun

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self.process.kill()
        self.process.wait()

    def has(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not is_so():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)


@contextlib.contextmanager
def kept(tmp_path: Path, code: str = "", *args: str) -> Iterator[Kept]:
    theirs, ours = os.pipe()
    ports, log = tmp_path / "ports", tmp_path / "log"
    words = ["serve", "--model_dir", str(tiny("bert", "fill_mask")), "--http_port=0", "--grpc_port=0", *args]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{code}\n{RUN}", *words],
            env=os.environ | {PARENT_FD: str(theirs), "MODELSERVE_PORTS_FILE": str(ports)},
            pass_fds=(theirs,),
            stdout=output,
            stderr=output,
        )
    os.close(theirs)
    server = Kept(process, ours, ports, log)
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.4])
def test_while_it_is_imported(tmp_path: Path, after_s: float) -> None:
    with kept(tmp_path, STALLED_LOAD) as server:
        time.sleep(after_s)
        server.let_go()
        assert server.process.returncode in (0, -15), server.log.read_text()


def test_while_it_loads(tmp_path: Path) -> None:
    with kept(tmp_path, STALLED_LOAD) as server:
        server.has(server.ports.exists)
        server.let_go()
        assert server.process.returncode == 0
        assert "the process that keeps this server is gone; draining" in server.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_when_it_is_ready(tmp_path: Path, workers: str) -> None:
    with kept(tmp_path, "", "--workers", workers) as server:
        server.has(lambda: server.log.read_text().count("ready: {") == int(workers))
        server.let_go()
        assert server.process.returncode == 0


@pytest.mark.slow
def test_when_it_cannot_drain(tmp_path: Path) -> None:
    """The event loop has stopped turning: no signal is heard."""
    with kept(tmp_path, STALLED_LOOP, "--shutdown_timeout", "1") as server:
        server.has(lambda: "stalled" in server.log.read_text())
        server.let_go()
        assert server.process.returncode == 1


def test_what_it_starts_is_not_its_keepers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker must not read a descriptor of its own that happens to have the number."""
    theirs, _ours = os.pipe()  # never closed: that would end the tests
    os.set_inheritable(theirs, True)
    monkeypatch.setenv(PARENT_FD, str(theirs))
    parent.end_with_it(0)
    assert PARENT_FD not in os.environ
    assert not os.get_inheritable(theirs)
