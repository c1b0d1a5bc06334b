"""`modelserve serve --backend vllm` as a process, with a stand-in of vLLM: its life is ours, and its end with ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from modelserve.backends.vllm_keeper import _descendants
from tests.fake_vllm import install
from tests.generative import tiny_generative
from tests.process import Server, serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def args(tmp_path: Path, **settings: Any) -> list[str | Path]:
    model = tiny_generative("llama")
    return ["--model_dir", model, "--model_name=m", "--backend=vllm", "--vllm_python", install(tmp_path, **settings)]


def theirs(server: Server) -> list[int]:
    """The keeper, vLLM's server, and what that has started."""
    found = list(_descendants(server.process.pid))
    assert len(found) == 4
    return found


def gone(pids: list[int], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_readiness_waits_for_it_and_liveness_ends_with_it(tmp_path: Path) -> None:
    with serve(*args(tmp_path, start_s=3), ready=False) as server:
        stages = set()
        deadline = time.monotonic() + 60
        while (answer := server.get("/v2/health/ready")).status_code != 200:
            said = answer.json()
            stages.add((said["stage"], said["progress"]))
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert ("load", 0.55) in stages
        assert server.get("/v2/health/live").status_code == 200
        pids = theirs(server)
        os.kill(pids[1], signal.SIGKILL)
        killed = time.monotonic()
        while server.get("/v2/health/live").status_code == 200:
            assert time.monotonic() < killed + 5  # milliseconds; the bound is for a busy machine
        assert server.get("/v2/health/ready").status_code == 503
        answer = server.post("/v1/completions", {"model": "m", "prompt": "x"})
        assert answer.status_code >= 500
        gone(pids)
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_us(tmp_path: Path, number: int) -> None:
    with serve(*args(tmp_path)) as server:
        pids = theirs(server)
        assert server.post("/v1/completions", {"model": "m", "prompt": "x"}).status_code == 200
        assert server.stop(number) == (0 if number == signal.SIGTERM else -number)
        gone(pids)


def test_it_ends_with_us_while_it_loads(tmp_path: Path) -> None:
    with serve(*args(tmp_path, start_s=1000), ready=False) as server:
        deadline = time.monotonic() + 60
        while len(pids := list(_descendants(server.process.pid))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert server.stop() == 0
        gone(pids)


def refused(*argv: str | Path) -> tuple[int, str]:
    run = "import sys; from modelserve.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", run, "serve", *map(str, argv), "--http_port=0", "--grpc_port=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stderr.splitlines()[-1]


def test_wrong_arguments_end_the_start(tmp_path: Path) -> None:
    given = args(tmp_path)
    status, said = refused(*given, "--frobnicate", "1")
    assert status == 2
    assert said.startswith("modelserve: error: unknown flag --frobnicate; ")
    status, said = refused(*given, "--block-size", "many")
    assert (status, said) == (
        2,
        "modelserve: error: vLLM 0.32.0+fake refuses its arguments: argument --block-size: invalid int value: 'many'",
    )


def test_a_model_that_it_loads_and_cannot_run_is_no_server(tmp_path: Path) -> None:
    line = "(Worker pid=8) RuntimeError: Unsupported CPU attention configuration: head_dim=16"
    status, said = refused(*args(tmp_path, cannot_write=line))
    assert status == 1
    assert said.endswith("vLLM started and could not write: Unsupported CPU attention configuration: head_dim=16")


def test_a_start_that_fails_is_ours_with_its_reason(tmp_path: Path) -> None:
    lines = ["(EngineCore pid=7) ERROR 11-26 13:30:01 [core.py:800] ValueError: no room for 256 tokens"]
    status, said = refused(*args(tmp_path, lines=lines, status=1))
    assert status == 1
    assert said == ("modelserve: error: vLLM ended with exit status 1 before it was ready: no room for 256 tokens")
