"""A real Triton Inference Server for tests: the binary of the wheel nvidia-pytriton, on a CPU.

`with triton(repository) as server:` is a process on free ports that serves the models of tests/triton_models, killed
and started again on the same ports where a test asks for it. What Triton's Python backend runs is this Python with
this checkout's packages. Runs where that wheel does; elsewhere the test is skipped with what is missing.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import pytest

from tests.environments import environment

REQUIREMENTS = Path(__file__).parent / "triton_models" / "requirements-triton.txt"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_GLIBC = (2, 35)
_START_S = 120
"""Models load side by side, and those of transformers take five seconds of a processor each."""


@dataclass
class Triton:
    """A Triton and its processes of models, which are one group. `log` is what they have written so far."""

    command: list[str]
    env: dict[str, str]
    http_port: int
    grpc_port: int
    output: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def log(self) -> str:
        return self.output.read_text(errors="replace")

    def host(self, protocol: str) -> str:
        """As --predictor_host has it."""
        return f"127.0.0.1:{self.grpc_port if protocol == 'grpc-v2' else self.http_port}"

    def wait_ready(self, timeout_s: float = _START_S) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"Triton ended with {self.process.returncode}:\n{self.log}")
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/v2/health/ready", timeout=5).status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"Triton is not ready within {timeout_s} s:\n{self.log}")

    def kill(self) -> None:
        """SIGKILL, as a machine that fails would: to its processes of models, too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def restart(self, *, ready: bool = True) -> None:
        """Begin again on the same ports, after `kill`."""
        self.process = _start(self.command, self.env, self.output)
        if ready:
            self.wait_ready()


@contextlib.contextmanager
def triton(repository: Path, *args: str, ready: bool = True) -> Iterator[Triton]:
    """Triton with all models of the repository. args: further ones of its command line. Skips where it cannot run."""
    wheel = _installed()
    if why := _lacks(wheel):
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="modelserve-triton-") as directory:
        work = Path(directory)
        http_port, grpc_port = _free_ports()
        shared = f"modelserve-{os.getpid()}-{http_port}-"
        command = [
            str(_binary(wheel)),
            f"--model-repository={repository}",
            f"--backend-directory={_backends(wheel, work)}",
            f"--backend-config=python,shm-region-prefix-name={shared}",
            "--http-address=127.0.0.1",
            f"--http-port={http_port}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={grpc_port}",
            "--allow-metrics=false",
            "--exit-timeout-secs=5",
            *args,
        ]
        output = work / "log"
        env = _env(wheel)
        server = Triton(command, env, http_port, grpc_port, output, _start(command, env, output))
        try:
            if ready:
                server.wait_ready()
            yield server
        finally:
            if server.process.poll() is None:
                server.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.process.wait(15)
            server.kill()
            for region in Path("/dev/shm").glob(f"{shared}*"):  # a Triton that was killed leaves its memory behind
                region.unlink(missing_ok=True)


def _start(command: list[str], env: dict[str, str], output: Path) -> subprocess.Popen[bytes]:
    with output.open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True)


def _free_ports() -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _installed() -> Path:
    """The folder of the wheel's packages. Skips where there is none for this machine."""
    libc, version = platform.libc_ver()
    if sys.platform != "linux" or platform.machine() != "x86_64" or libc != "glibc":
        pytest.skip(f"there is no nvidia-pytriton for {sys.platform} on {platform.machine()}, only for Linux on x86_64")
    if tuple(map(int, version.split("."))) < _GLIBC:
        pytest.skip(f"nvidia-pytriton wants glibc {'.'.join(map(str, _GLIBC))} or newer; this machine has {version}")
    python = environment(REQUIREMENTS, checked=False)
    return python.parent.parent / "lib" / f"python{PYTHON}" / "site-packages"


def _binary(wheel: Path) -> Path:
    return wheel / "pytriton" / "tritonserver" / "bin" / "tritonserver"


def _stub(wheel: Path) -> Path:
    return wheel / "pytriton" / "tritonserver" / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"


@cache
def _lacks(wheel: Path) -> str:
    """What Triton would want on this machine and does not find; "" when it can run."""
    if not _stub(wheel).exists():
        return f"nvidia-pytriton has no Python backend for Python {PYTHON}"
    for binary in (_binary(wheel), _stub(wheel)):
        said = subprocess.run(["ldd", binary], env=_env(wheel), capture_output=True, text=True, check=False)
        if missing := sorted({line.split()[0] for line in said.stdout.splitlines() if "not found" in line}):
            return f"{binary.name} of nvidia-pytriton wants {', '.join(missing)}, which this machine lacks"
    return ""


def _env(wheel: Path) -> dict[str, str]:
    """This Python for the models, one thread for each."""
    libraries = (wheel / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    return os.environ | {
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _backends(wheel: Path, work: Path) -> Path:
    """Triton's folder of backends: the wheel's Python backend with the stub for this Python, and our packages."""
    folder = work / "backends"
    shutil.copytree(wheel / "pytriton" / "tritonserver" / "backends", folder)
    stub = Path(shutil.copy(_stub(wheel), folder / "python"))
    # What a model imports first: it wants NumPy itself, and the stub's Python looks at no PYTHONPATH.
    first = folder / "python" / "triton_python_backend_utils.py"
    packages = sysconfig.get_path("purelib")
    first.write_text(f"import sys\n\nsys.path.insert(0, {packages!r})\n{first.read_text()}")
    for file in (stub, _binary(wheel)):
        file.chmod(0o755)  # a wheel's data need not keep who may run them
    return folder
